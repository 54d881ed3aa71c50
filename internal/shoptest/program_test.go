package shoptest

import (
	"os"
	"path/filepath"
	"testing"
)

func TestProgramIsNeverTakenFromAnotherUser(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "program")
	for range 2 { // made, and found
		if err := ownFolder(folder); err != nil {
			t.Fatal(err)
		}
	}
	link := folder + "-link"
	if err := os.Symlink(folder, link); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, planted := range []string{link, open} {
		if err := ownFolder(planted); err == nil {
			t.Errorf("%s is trusted", planted)
		}
	}
	if os.Getuid() != 0 {
		return
	}
	if err := os.Chown(folder, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := ownFolder(folder); err == nil {
		t.Error("a folder of another user is trusted")
	}
}
