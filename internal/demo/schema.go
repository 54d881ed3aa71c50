package demo

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/onceshop/onceshop/db/migrations"
)

// checkSchema compares the migrations that made the data in dir with those of this program, and
// records those of this program. The database itself keeps only their numbers, which a changed
// migration does not change.
func checkSchema(dir string) error {
	path := filepath.Join(dir, schemaFile)
	ours, err := checksums()
	if err != nil {
		return err
	}
	theirs := map[string]string{}
	data, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := json.Unmarshal(data, &theirs); err != nil {
			return fmt.Errorf("%s is damaged; `shop demo --fresh` starts over: %w", path, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read the demo's schema: %w", err)
	default:
		_, err := os.Stat(filepath.Join(dir, postgresDir))
		if err == nil {
			return errOlderData(dir)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for file, sum := range theirs {
		if ours[file] != sum {
			return errOlderData(dir)
		}
	}
	return writePrivate(path, ours)
}

func errOlderData(dir string) error {
	return fmt.Errorf("the data in %s was made by another version of the shop, whose tables differ: "+
		"`shop demo --fresh` removes it and starts over, or set SHOP_DATA_DIR to another folder", dir)
}

// checksums maps each migration of this program to the SHA-256 of its text.
func checksums() (map[string]string, error) {
	files, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		return nil, err
	}
	sums := make(map[string]string, len(files))
	for _, file := range files {
		text, err := fs.ReadFile(migrations.FS, file)
		if err != nil {
			return nil, fmt.Errorf("read a migration: %w", err)
		}
		sum := sha256.Sum256(text)
		sums[file] = hex.EncodeToString(sum[:])
	}
	return sums, nil
}
