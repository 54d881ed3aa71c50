package faults

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/proof/kill"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// asProgram makes the test binary one of the programs, so that tests can run it as a process of its
// own.
const asProgram = "SHOP_TEST_AS_PROGRAM"

var programs = map[string]func(context.Context) error{"node": serveNode, "nats": serveNATS}

func TestMain(m *testing.M) {
	if program := programs[os.Getenv(asProgram)]; program != nil {
		os.Exit(run(program))
	}
	shoptest.Main(m)
}

func run(program func(context.Context) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // it ends with the test's process, however that ends
		os.Exit(3)
	}()
	if err := program(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// serveNode is `shop serve`, but for the demo's tokens.
func serveNode(ctx context.Context) error {
	config, err := app.ConfigFrom(os.Environ())
	if err != nil {
		return err
	}
	config.Demo = true
	if _, err := kill.Arm(); err != nil {
		return err
	}
	role := app.Everything
	if os.Getenv(onlyWeb) != "" {
		role = app.OnlyWeb
	}
	return app.Serve(ctx, config, role, slog.New(slog.NewJSONHandler(os.Stderr, nil)))
}

// onlyWeb makes a node leave the work in the background to others.
const onlyWeb = "TEST_ONLY_WEB"

const (
	natsPort = "TEST_NATS_PORT"
	natsDir  = "TEST_NATS_DIR"
)

func serveNATS(ctx context.Context) error {
	port, err := strconv.Atoi(os.Getenv(natsPort))
	if err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true,
		StoreDir: os.Getenv(natsDir), SyncAlways: true, NoSigs: true, NoLog: true})
	if err != nil {
		return err
	}
	s.Start()
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// process is a child that dies with the test.
type process struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	output *transcript
	exited chan struct{}
}

func startProcess(t *testing.T, program string, environ ...string) *process {
	t.Helper()
	p := &process{t: t, name: program, output: &transcript{}, exited: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append([]string{asProgram + "=" + program, "PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")},
		environ...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	if _, err := p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait() // its state tells
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", p.name, p.output)
		}
	})
	return p
}

// kill ends the process at once, as a crash of its machine does. Killing it twice is fine.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only when it is gone
	<-p.exited
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
}

// awaitExit waits for the process to end by itself and returns how it did.
func (p *process) awaitExit(within time.Duration) syscall.WaitStatus {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(within):
		p.t.Fatalf("%s does not end within %s", p.name, within)
	}
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		p.t.Fatalf("no wait status but %T", p.cmd.ProcessState.Sys())
	}
	return status
}

func (p *process) gone() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// transcript is what a process says; it keeps the end.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.text.Len() > 1<<20 {
		t.text.Next(t.text.Len() / 2)
	}
	return t.text.Write(b)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := t.text.String()
	return text[max(0, len(text)-8<<10):]
}
