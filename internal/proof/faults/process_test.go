package faults

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/proof/fleet"
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

func startProcess(t *testing.T, program string, environ ...string) *fleet.Process {
	t.Helper()
	return fleet.Start(t, program, exec.Command(os.Args[0]), append(environ, asProgram+"="+program)...)
}
