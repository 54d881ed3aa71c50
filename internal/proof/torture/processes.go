package torture

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/onceshop/onceshop/internal/pg/pglocal"
)

// process is a child that dies with the run.
type process struct {
	cmd    *exec.Cmd
	exited <-chan struct{}
}

// startProcess starts a program whose output is appended to a log in the run's folder. It sees no
// more of our environment than it needs.
func (r *run) startProcess(name string, env []string, program string, args ...string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(r.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", name, err)
	}
	defer log.Close()
	//nolint:noctx,gosec // the run ends it in order; the program is our own or one that we found
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = r.dir, log, log
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir()},
		env...)
	exited, err := pglocal.StartProcess(cmd)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &process{cmd: cmd, exited: exited}, nil
}

// signal fails only when the process is gone, which its exit tells.
func (p *process) signal(sig syscall.Signal) { _ = syscall.Kill(p.cmd.Process.Pid, sig) }

// kill ends it as a power cut does.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.exited
}

// stop asks it to end, and makes it after the patience. It reports whether asking was enough.
func (p *process) stop(patience time.Duration) bool {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		return true
	case <-time.After(patience):
		p.kill()
		return false
	}
}

// killed reports whether SIGKILL ended it.
func (p *process) killed() bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// Servers come back on the port that they had. A port out of this range could meanwhile become the
// near end of somebody's connection.
const lowestPort, ports = 17000, 15000

// addresses hands out addresses on this machine that nobody listens on, each once.
type addresses struct{ next int }

func newAddresses() *addresses {
	return &addresses{next: rand.IntN(ports / 2)} //nolint:gosec // no secret: two runs on one machine should not meet
}

func (a *addresses) free() (string, error) {
	for ; a.next < ports; a.next++ {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(lowestPort+a.next))
		listener, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		a.next++
		return address, listener.Close()
	}
	return "", fmt.Errorf("no free port between %d and %d", lowestPort, lowestPort+ports)
}

// answers waits until somebody accepts connections on the address.
func answers(ctx context.Context, p *process, address string) error {
	return poll(ctx, serverPatience, func() (bool, error) {
		select {
		case <-p.exited:
			return false, fmt.Errorf("the server for %s has exited: %s", address, p.cmd.ProcessState)
		default:
		}
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
		if err != nil {
			return false, nil //nolint:nilerr // not yet
		}
		return true, conn.Close()
	})
}

// serverPatience is how long a server may take to start.
const serverPatience = 30 * time.Second

// pollPause is between two questions.
const pollPause = 50 * time.Millisecond

// poll asks until the answer is yes, an error, or the patience is over. It counts questions, not
// time: while this machine gives us no turn, it gives those none that we wait for.
func poll(ctx context.Context, patience time.Duration, ask func() (bool, error)) error {
	for range patience / pollPause {
		if done, err := ask(); done || err != nil {
			return err
		}
		if !sleep(ctx, pollPause) {
			return ctx.Err()
		}
	}
	return fmt.Errorf("not within %s", patience)
}

// sleep reports whether the time has passed before ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
