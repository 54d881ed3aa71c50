package pglocal

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// attributes puts a child into its own process group, so that a terminal's Ctrl-C does not reach it
// before we stop it in order. The child runs as the given user (nil: our own). The kernel sends it
// the signal death when we die.
//
// The kernel sends the signal when the starting thread ends. Call runtime.LockOSThread before Start
// and keep the thread until Wait has returned.
func attributes(as *syscall.Credential, death syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: as, Pdeathsig: death}
}

// commandLine returns the process's arguments, separated by spaces, or "" if there is no such
// process.
func commandLine(pid int) string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
}
