package pglocal

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// attributes puts a child into a process group of its own, so that a terminal's Ctrl-C does not
// reach it before we stop it in order; runs it as the given user (nil: our own); and has the kernel
// send it the signal death when we die.
//
// The kernel sends it when the starting thread ends: call runtime.LockOSThread before Start, and
// keep the thread until Wait has returned.
func attributes(as *syscall.Credential, death syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: as, Pdeathsig: death}
}

// commandLine is how the process was called, its words separated by spaces; empty when there is no
// such process.
func commandLine(pid int) string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
}
