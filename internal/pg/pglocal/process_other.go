//go:build !linux

package pglocal

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// attributes puts a child into its own process group, so that a terminal's Ctrl-C does not reach it
// before we stop it in order. The child runs as the given user (nil: our own). Only Linux can kill
// a child with its parent. On other systems a server outlives a killed parent, and the next start
// stops it.
func attributes(as *syscall.Credential, _ syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: as}
}

// commandLine returns the process's arguments, separated by spaces, or "" if there is no such
// process.
func commandLine(pid int) string {
	line, err := exec.Command("ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(line))
}
