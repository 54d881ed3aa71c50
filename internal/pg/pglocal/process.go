package pglocal

import (
	"os/exec"
	"runtime"
	"syscall"
)

// StartProcess starts a command, as the user of its credential if it has one. On Linux the kernel
// kills it when this process ends. The channel is closed when the command has exited and its
// ProcessState is set.
func StartProcess(cmd *exec.Cmd) (exited <-chan struct{}, err error) {
	var as *syscall.Credential
	if cmd.SysProcAttr != nil {
		as = cmd.SysProcAttr.Credential
	}
	cmd.SysProcAttr = attributes(as, syscall.SIGKILL)
	return start(cmd)
}

// start starts a command whose attributes are set. It waits for it on the thread that started it:
// see attributes.
func start(cmd *exec.Cmd) (<-chan struct{}, error) {
	started, exited := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // ProcessState has the result
			close(exited)
		}
	}()
	return exited, <-started
}
