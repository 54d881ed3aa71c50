package outbox

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	natsbroker "github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// patience bounds every wait, on a busy machine.
const patience = 60 * time.Second

// The defaults of a shop.
const (
	lease  = 30 * time.Second
	window = 10 * time.Minute
	maxAge = 24 * time.Hour
)

var quiet = slog.New(slog.DiscardHandler)

// bundle is a database and a broker with the streams.
type bundle struct {
	pool   *pgxpool.Pool
	server *shoptest.NATSServer
	js     jetstream.JetStream
	broker broker.Broker
}

func setup(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{pool: shoptest.DB(t), server: startNATS(t, t.TempDir())}
	b.js, b.broker = openBroker(t, connect(t, b.server.URL()))
	return b
}

func startNATS(t testing.TB, dir string) *shoptest.NATSServer {
	t.Helper()
	return shoptest.NATS(t, dir)
}

func connect(t testing.TB, address string) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect(address,
		nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func openBroker(t testing.TB, conn *nats.Conn) (jetstream.JetStream, broker.Broker) {
	t.Helper()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	b := natsbroker.New(js, natsbroker.Settings{Window: window, MaxAge: maxAge}, quiet)
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return js, b
}

// enqueue commits n events of the type and returns their ids.
func (b *bundle) enqueue(t *testing.T, eventType string, n int) []uuid.UUID {
	t.Helper()
	ids := make([]uuid.UUID, n)
	err := pg.InTx(t.Context(), b.pool, func(tx pgx.Tx) error {
		for i := range ids {
			ids[i] = newID(t)
			if err := EnqueueTx(t.Context(), tx,
				NewEvent{ids[i], eventType, newID(t), map[string]int{"n": i}}); err != nil {
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

// publish enqueues n events of the type and relays them.
func (b *bundle) publish(t *testing.T, eventType string, n int) []uuid.UUID {
	t.Helper()
	ids := b.enqueue(t, eventType, n)
	if claimed, err := NewRelay(b.pool, b.broker, lease, nil, quiet).RunOnce(t.Context()); err != nil || claimed != n {
		t.Fatalf("relayed %d events, %v, want %d", claimed, err, n)
	}
	return ids
}

func newID(t *testing.T) uuid.UUID {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (b *bundle) count(t *testing.T, sql string, args ...any) (n int) {
	t.Helper()
	if err := b.pool.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func (b *bundle) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := b.pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// unsent is the number of rows that are not marked as sent.
func (b *bundle) unsent(t *testing.T) int {
	t.Helper()
	return b.count(t, "SELECT count(*) FROM outbox WHERE sent_at IS NULL AND stream_seq IS NULL")
}

// stored returns all messages of a stream, or none if there is no such stream.
func stored(t *testing.T, js jetstream.JetStream, stream string) []*jetstream.RawStreamMsg {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	state := s.CachedInfo().State
	var messages []*jetstream.RawStreamMsg
	for seq := state.FirstSeq; seq <= state.LastSeq && state.Msgs > 0; seq++ {
		msg, err := s.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, msg)
	}
	return messages
}

// throughProxy returns a proxy in front of the broker, and the broker's URL through it.
func throughProxy(t *testing.T, brokerURL string) (*shoptest.Proxy, string) {
	t.Helper()
	u, err := url.Parse(brokerURL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := shoptest.StartProxy(t, u.Host)
	u.Host = proxy.Addr()
	return proxy, u.String()
}

// takeDown breaks the connections to the broker and accepts no new one.
func takeDown(broker *shoptest.Proxy) {
	broker.Refuse(true)
	broker.Cut()
}

// bringBack ends takeDown and Deafen.
func bringBack(broker *shoptest.Proxy) {
	broker.Deafen(false)
	broker.Refuse(false)
}

// within returns a context that gives up after d.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
