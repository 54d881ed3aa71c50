package pglocal

import (
	"os"
	"syscall"
	"testing"
)

// A folder is free once its lock is closed, also while this process is starting a program, which
// has a copy of every open file until it runs.
func TestFolderIsFreeWhileAProgramStarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lock, err := LockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	inherited, err := syscall.Dup(int(lock.file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer os.NewFile(uintptr(inherited), "inherited").Close()
	if _, err := LockFolder(dir); err == nil {
		t.Error("locked twice")
	}
	lock.Close()
	again, err := LockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}
