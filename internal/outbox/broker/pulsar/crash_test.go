package pulsar

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/pg/pglocal"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// relayProcess is the environment of a child process that is a relay.
const relayProcess = "ONCESHOP_TEST_RELAY"

func TestMain(m *testing.M) {
	if text := os.Getenv(relayProcess); text != "" {
		runRelay(text)
		return
	}
	os.Exit(shoptest.Run(m)) // a consumer of the client that ends while it connects leaves a goroutine behind
}

// admin calls the admin API.
func (s *server) admin(t *testing.T, method, path, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.web+"/admin/v2"+path,
		strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, _ := io.ReadAll(response.Body); response.StatusCode >= 300 {
		t.Fatalf("%s %s: %s %s", method, path, response.Status, text)
	}
}

// relaySettings are those of a relay in a process of its own.
type relaySettings struct {
	Database, Broker, Cell string
	// Point is where the process kills itself, the first time that it comes there with events.
	Point crash.Point
}

// runRelay runs a relay until it is killed.
func runRelay(text string) {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var s relaySettings
	err := json.Unmarshal([]byte(text), &s)
	var pool *pgxpool.Pool
	if err == nil {
		pool, err = pg.Open(context.Background(), s.Database, 4)
	}
	var b *Broker
	if err == nil {
		b, err = Connect(s.Broker, Settings{Cell: s.Cell}, log)
	}
	if err == nil {
		for err = b.Open(context.Background()); err != nil; err = b.Open(context.Background()) {
			log.Warn("the broker does not answer; trying again", "error", err)
			<-time.After(200 * time.Millisecond)
		}
		crash.Install(func(p crash.Point) {
			if p == s.Point {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		})
		err = outbox.NewRelay(pool, b, time.Minute, nil, log).Run(context.Background())
	}
	log.Error("the relay ended", "error", err)
	os.Exit(1)
}

// startRelay starts a relay in a process of its own, and returns a function that reports whether it
// has died.
func startRelay(t *testing.T, s relaySettings) (dead func() bool) {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), relayProcess+"="+string(text))
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	exited, err := pglocal.StartProcess(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // fails only if the process has exited
		<-exited
		if t.Failed() {
			t.Logf("a relay wrote:\n%s", out)
		}
	})
	return func() bool {
		select {
		case <-exited:
		default:
			return false
		}
		if status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
			t.Fatalf("a relay has ended with %s", cmd.ProcessState)
		}
		return true
	}
}
