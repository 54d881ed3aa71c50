package demo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// checkFolder refuses a data folder in which someone else has put a link or a file. A demo that
// runs as root would otherwise overwrite what the link leads to, or trust the file's secrets.
func checkFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the data folder (SHOP_DATA_DIR): %w", err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at the data folder (SHOP_DATA_DIR): %w", err)
		}
		path := filepath.Join(dir, entry.Name())
		if info.Mode()&fs.ModeSymlink != 0 {
			return fmt.Errorf("%s is a symbolic link, which the demo does not follow: remove it, or set "+
				"SHOP_DATA_DIR to another folder", path)
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		if ok && info.Mode().IsRegular() && (int(owner.Uid) != os.Geteuid() || owner.Nlink > 1) {
			return fmt.Errorf("%s belongs to another user, or has a second name: remove it, or set SHOP_DATA_DIR to "+
				"another folder", path)
		}
	}
	return nil
}
