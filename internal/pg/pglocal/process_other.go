//go:build !linux

package pglocal

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// attributes puts a child into a process group of its own, so that a terminal's Ctrl-C does not
// reach it before we stop it in order, and runs it as the given user (nil: our own). Only Linux can
// tie a child's life to ours: elsewhere a server outlives a killed parent, and the next start stops
// it.
func attributes(as *syscall.Credential, _ syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: as}
}

// commandLine is how the process was called, its words separated by spaces; empty when there is no
// such process.
func commandLine(pid int) string {
	line, err := exec.Command("ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(line))
}
