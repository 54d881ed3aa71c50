// Package fleet runs nodes of the shop, and the servers around them, as processes of a test.
package fleet

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/pg/pglocal"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const (
	// Soon bounds what happens at once, on a busy machine.
	Soon = 30 * time.Second
	// Healed bounds the work that a fault has delayed.
	Healed = 60 * time.Second
)

// Process is a program that ends with its test.
type Process struct {
	Name   string
	t      *testing.T
	cmd    *exec.Cmd
	output *shoptest.Transcript
	exited <-chan struct{}
}

// Start starts a command. It gets no more of this environment than it needs. When the test fails,
// the end of its output is logged.
func Start(t *testing.T, name string, cmd *exec.Cmd, environ ...string) *Process {
	t.Helper()
	p := &Process{Name: name, t: t, cmd: cmd, output: &shoptest.Transcript{}}
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir()},
		environ...)
	cmd.Stdout, cmd.Stderr = p.output, p.output
	var err error
	if p.exited, err = pglocal.StartProcess(cmd); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("output of %s:\n%s", name, p.Output())
		}
	})
	return p
}

// Kill ends the process like a power failure. It may be called twice.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // fails only if it has exited
	<-p.exited
}

// Signal sends the process a signal.
func (p *Process) Signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("%s: %v", p.Name, err)
	}
}

// AwaitExit waits until the process ends by itself, and returns how it did.
func (p *Process) AwaitExit() syscall.WaitStatus {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(Soon):
		p.t.Fatalf("%s does not end within %s", p.Name, Soon)
	}
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		p.t.Fatalf("no wait status but %T", p.cmd.ProcessState.Sys())
	}
	return status
}

// Gone reports whether the process has ended.
func (p *Process) Gone() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// AwaitListening waits until the process accepts connections on the address.
func (p *Process) AwaitListening(address string) {
	p.t.Helper()
	dialer := net.Dialer{Timeout: time.Second}
	shoptest.Eventually(p.t, Soon, p.Name+" listens on "+address, func() bool {
		conn, err := dialer.DialContext(p.t.Context(), "tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil || p.Gone()
	})
	if p.Gone() {
		p.t.Fatalf("%s has ended: %s", p.Name, p.Output())
	}
}

// Output returns the end of what the process has written.
func (p *Process) Output() string {
	text := p.output.String()
	return text[max(0, len(text)-8<<10):]
}

// Wrote reports whether the process has written the text. Of a process that runs, a line comes a
// moment after what it is about.
func (p *Process) Wrote(text string) bool { return p.output.Has(text) }

// Node is a process of the shop. URL is its public base URL, and Ops that of its operations.
type Node struct {
	*Process
	URL, Ops string
}

// AwaitReady waits until the node can take an order.
func (n *Node) AwaitReady() {
	n.t.Helper()
	shoptest.Eventually(n.t, Healed, "the node is ready", func() bool { return n.Gone() || n.Ready() })
	if n.Gone() {
		n.t.Fatalf("the node has ended: %s", n.Output())
	}
}

// Ready reports whether the node can take an order.
func (n *Node) Ready() bool {
	status, _, err := Get(n.t, n.URL+"/readyz")
	return err == nil && status == http.StatusOK
}

// Metric returns the sum of a metric over the labels that contain the text.
func (n *Node) Metric(name, labels string) (sum float64) {
	n.t.Helper()
	_, body, err := Get(n.t, n.Ops+"/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(body) {
		if !strings.HasPrefix(line, name) || !strings.Contains(line, labels) {
			continue
		}
		var value float64
		if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &value); err == nil {
			sum += value
		}
	}
	return sum
}

// Get asks once, over a connection of its own.
func Get(t *testing.T, url string) (status int, body string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(content), err
}
