package pglocal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// FolderLock is the lock of a folder.
type FolderLock struct{ file *os.File }

// Close unlocks the folder. To close the file would not do: a program that this process is starting
// has a copy of it for a moment.
func (l *FolderLock) Close() {
	_ = syscall.Flock(int(l.file.Fd()), syscall.LOCK_UN) // cannot fail for a file that is open
	l.file.Close()
}

// dying is how long a process that was just killed may still hold its files.
const dying = 2 * time.Second

// LockFolder creates dir if it is missing and locks it until the lock is closed or the process
// ends, even by a crash. Two servers on one data folder would destroy the data. If another process
// has the lock, LockFolder waits two seconds for its end.
func LockFolder(dir string) (*FolderLock, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create the data folder (SHOP_DATA_DIR): %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder (SHOP_DATA_DIR): %w", err)
	}
	until := time.Now().Add(dying)
	err = tryLock(file)
	for errors.Is(err, syscall.EWOULDBLOCK) && time.Now().Before(until) {
		<-time.After(10 * time.Millisecond)
		err = tryLock(file)
	}
	if err == nil {
		return &FolderLock{file}, nil
	}
	file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%s is in use by another running shop: stop that one, or set SHOP_DATA_DIR to "+
			"another folder", dir)
	}
	return nil, fmt.Errorf("lock %s: %w", dir, err)
}

func tryLock(file *os.File) error {
	return syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}
