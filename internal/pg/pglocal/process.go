package pglocal

import (
	"os/exec"
	"runtime"
	"syscall"
)

// StartProcess starts a command that the kernel kills when this process dies, on Linux. The channel
// is closed when the command has exited; its ProcessState then says how.
func StartProcess(cmd *exec.Cmd) (exited <-chan struct{}, err error) {
	cmd.SysProcAttr = attributes(nil, syscall.SIGKILL)
	return start(cmd)
}

// start starts a command whose attributes are set, and waits for it on the thread that has started
// it: see attributes.
func start(cmd *exec.Cmd) (<-chan struct{}, error) {
	started, exited := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it exited is in its ProcessState
			close(exited)
		}
	}()
	return exited, <-started
}
