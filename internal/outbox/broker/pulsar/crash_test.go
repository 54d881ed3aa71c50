package pulsar

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/outbox/broker"
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
		err = b.Open(context.Background())
	}
	if err == nil {
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

// startRelay starts a relay in a process of its own. It returns how to kill it, and a channel that
// is closed when it has ended.
func startRelay(t *testing.T, s relaySettings) (kill func(), ended <-chan struct{}) {
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
	return func() { _ = cmd.Process.Kill(); <-exited }, exited
}

// enqueue commits n events and returns their ids.
func enqueue(t *testing.T, pool *pgxpool.Pool, n int) (ids []uuid.UUID) {
	t.Helper()
	err := pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		for range n {
			id := uuid.Must(uuid.NewV7())
			ids = append(ids, id)
			event := outbox.NewEvent{ID: id, Type: paid, OrderID: id, Data: struct{}{}}
			if err := outbox.EnqueueTx(t.Context(), tx, event); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func waitSent(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	shoptest.Eventually(t, patience, "all events are marked as sent", func() bool {
		var unsent int
		err := pool.QueryRow(t.Context(), "SELECT count(*) FROM outbox WHERE sent_at IS NULL").Scan(&unsent)
		return err == nil && unsent == 0
	})
}

// wantOnce checks that the topic has each event once.
func wantOnce(t *testing.T, b *Broker, ids []uuid.UUID) {
	t.Helper()
	times := map[uuid.UUID]int{}
	for _, body := range topic(t, b) {
		var event outbox.Event
		if err := json.Unmarshal([]byte(body), &event); err != nil {
			t.Fatal(err)
		}
		times[event.ID]++
	}
	lost, twice := 0, 0
	for _, id := range ids {
		switch n := times[id]; {
		case n == 0:
			lost++
		case n > 1:
			twice++
		}
	}
	if lost > 0 || twice > 0 || len(times) != len(ids) {
		t.Errorf("of %d events, %d are lost and %d stored twice; the topic has %d", len(ids), lost, twice, len(times))
	}
}

// Relays in processes of their own, two at a time, are killed between claim and publish, between
// publish and mark, and anywhere: no event is lost, and none is stored twice.
func testRelaysKilled(t *testing.T, s *server) {
	t.Helper()
	database := shoptest.DatabaseURL(t)
	pool, err := pg.Open(t.Context(), database, 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	cell := newCell()
	settings := relaySettings{Database: database, Broker: "pulsar://" + s.broker, Cell: cell}
	b := s.connect(t, cell)
	var ids []uuid.UUID
	// The other relay is there all the time, until it is killed itself.
	killOther, _ := startRelay(t, settings)
	for _, point := range []crash.Point{crash.RelayClaimed, crash.RelayPublished, crash.RelayClaimed,
		crash.RelayPublished} {
		ids = append(ids, enqueue(t, pool, 40)...)
		deadly := settings
		deadly.Point = point
		_, dead := startRelay(t, deadly)
		killOther() // the deadly one takes over
		ids = append(ids, enqueue(t, pool, 40)...)
		shoptest.Eventually(t, patience, fmt.Sprintf("the relay dies at %s", point), func() bool {
			select {
			case <-dead:
				return true
			default:
				return false
			}
		})
		killOther, _ = startRelay(t, settings)
		ids = append(ids, enqueue(t, pool, 40)...)
	}
	waitSent(t, pool)
	wantOnce(t, b, ids)
}

// The broker remembers numbers, events and letters over kill -9. It may forget acknowledgements
// that it has confirmed.
func TestBrokerKilled(t *testing.T) {
	t.Parallel()
	s := startServer(t, deduplicates)
	b := s.connect(t, newCell())
	publish(t, b, messages(1, 2, 3, 7)...)
	bury := consume(t, b, audit, 1, func(ctx context.Context, d broker.Delivery) error { return d.Dead(ctx, "no") })
	bury.wait(t, 4)
	bury.stop()
	done := consume(t, b, receipts, 1, ack)
	done.wait(t, 4)
	done.stop()
	s.Restart()
	// The same number, a lower one, and new ones, over the connection that was there before.
	var acks []broker.Ack
	list := messages(3, 5, 7, 8)
	shoptest.Eventually(t, patience, "the broker takes messages again", func() bool {
		acks = b.Publish(within60(t), list)
		return !slices.ContainsFunc(acks, func(a broker.Ack) bool { return a.Err != nil })
	})
	for i, want := range []bool{true, true, true, false} {
		if acks[i].Duplicate != want {
			t.Errorf("number %d after the crash: duplicate %t, want %t", list[i].Number, acks[i].Duplicate, want)
		}
	}
	wantTopic(t, b, 1, 2, 3, 7, 8)
	after := consume(t, b, receipts, 1, ack)
	shoptest.Eventually(t, patience, "the new event is delivered", func() bool {
		return slices.ContainsFunc(after.deliveries(), func(d broker.Delivery) bool { return d.ID == message(8).ID })
	})
	t.Logf("%d events that were acknowledged came again", len(after.deliveries())-1)
	if n, _, err := b.Letters().Count(within60(t)); n != 4 || err != nil {
		t.Errorf("%d dead letters, %v, want 4", n, err)
	}
}

// The relay and a consumer at work, while the broker is killed three times.
func TestOutboxWhileTheBrokerIsKilled(t *testing.T) {
	t.Parallel()
	s := startServer(t, deduplicates)
	pool := shoptest.DB(t)
	b := s.connect(t, newCell())
	seen := make(chan uuid.UUID, 10_000)
	c, err := outbox.NewConsumer(t.Context(), pool, b, receipts, paid, func(_ context.Context, e outbox.Event) error {
		seen <- e.ID
		return nil
	}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- c.Run(ctx) }()
	go func() { ended <- outbox.NewRelay(pool, b, time.Minute, nil, quiet).Run(ctx) }()
	var ids []uuid.UUID
	handled := map[uuid.UUID]int{}
	collect := func() int {
		for {
			select {
			case id := <-seen:
				handled[id]++
			default:
				return len(handled)
			}
		}
	}
	for range 3 {
		ids = append(ids, enqueue(t, pool, 50)...)
		some := len(ids) - 25
		shoptest.Eventually(t, patience, "some events are handled", func() bool { return collect() >= some })
		s.kill()
		ids = append(ids, enqueue(t, pool, 50)...)
		s.start()
	}
	waitSent(t, pool)
	shoptest.Eventually(t, patience, "all events are handled", func() bool { return collect() == len(ids) })
	cancel()
	for range cap(ended) {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	again := 0
	for _, n := range handled {
		again += n - 1
	}
	t.Logf("%d events were delivered again", again)
	wantOnce(t, b, ids)
}
