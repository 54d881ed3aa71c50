package pglocal

import (
	"os"
	"syscall"
	"testing"
	"testing/synctest"
)

// A folder is free once its lock is closed, also while this process is starting a program, which
// has a copy of every open file until it runs.
func TestFolderIsFreeWhileAProgramStarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		lock := lockFolder(t, dir)
		inherited, err := syscall.Dup(int(lock.file.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		defer os.NewFile(uintptr(inherited), "inherited").Close()
		if _, err := LockFolder(dir); err == nil {
			t.Error("locked twice")
		}
		lock.Close()
		lockFolder(t, dir).Close()
	})
}

// A shop can be killed and started again at once: the end of a process takes a moment, in which its
// folder is locked.
func TestFolderOfAProcessThatIsEnding(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		lock := lockFolder(t, dir)
		locked := make(chan error)
		go func() {
			again, err := LockFolder(dir)
			if err == nil {
				again.Close()
			}
			locked <- err
		}()
		synctest.Wait()
		lock.Close()
		if err := <-locked; err != nil {
			t.Error(err)
		}
	})
}

func lockFolder(t *testing.T, dir string) *FolderLock {
	t.Helper()
	lock, err := LockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	return lock
}
