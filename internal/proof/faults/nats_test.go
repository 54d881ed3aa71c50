package faults

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/notify"
	outboxbroker "github.com/onceshop/onceshop/internal/outbox/broker"
	natsbroker "github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/proof/fleet"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// The broker loses what it has acknowledged, events that nobody has consumed among it: they are
// published again, and each effect happens once.
func TestNATSLosesEvents(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, b *natsServer, old string){
		"store set back": func(t *testing.T, b *natsServer, old string) {
			b.process.Kill()
			b.replaceStore(old)
			b.start()
		},
		"store gone": func(t *testing.T, b *natsServer, _ string) {
			b.process.Kill()
			b.replaceStore("")
			b.start()
		},
		"stream purged": func(t *testing.T, b *natsServer, _ string) {
			b.admin(func(ctx context.Context, js jetstream.JetStream) error {
				stream, err := js.Stream(ctx, natsbroker.EventStream)
				if err != nil {
					return err
				}
				return stream.Purge(ctx)
			})
		},
		"stream deleted": func(t *testing.T, b *natsServer, _ string) {
			b.admin(func(ctx context.Context, js jetstream.JetStream) error {
				return js.DeleteStream(ctx, natsbroker.EventStream)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, settings{})
			server, ok := w.broker.(*natsServer)
			if !ok {
				t.Fatalf("the broker is a %T", w.broker)
			}
			smtp, url := through(t, w.environ["SMTP_URL"])
			w.environ["SMTP_URL"] = url
			w.node()
			w.buy(0, "first@example.com")
			w.settled()
			old := server.copyStore()

			// While the mail server is away, the events of the second order reach the broker and
			// are not consumed.
			smtp.down()
			w.buy(0, "second@example.com")
			shoptest.Eventually(t, fleet.Soon, "the broker has the events", func() bool {
				return w.count("unsent") == 0
			})
			lose(t, server, old)
			w.buy(0, "third@example.com")
			smtp.up()
			w.settled()
			w.receipts("first@example.com", "second@example.com", "third@example.com")
			w.check(0)
		})
	}
}

func (b *natsServer) admin(do func(ctx context.Context, js jetstream.JetStream) error) {
	b.t.Helper()
	if err := b.do(do); err != nil {
		b.t.Fatal(err)
	}
}

// copyStore returns a copy of what the broker holds, made while it does not run.
func (b *natsServer) copyStore() string {
	b.t.Helper()
	b.process.Signal(syscall.SIGTERM)
	b.process.AwaitExit()
	dir := b.t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(b.dir)); err != nil {
		b.t.Fatal(err)
	}
	b.start()
	return dir
}

// replaceStore gives the broker another store, or none.
func (b *natsServer) replaceStore(by string) {
	b.t.Helper()
	b.dir = b.t.TempDir()
	if by == "" {
		return
	}
	if err := os.CopyFS(b.dir, os.DirFS(by)); err != nil {
		b.t.Fatal(err)
	}
}

// natsServer is a NATS server as a process of its own, always at the same address.
type natsServer struct {
	t         *testing.T
	addr, dir string
	process   *fleet.Process
}

func startNATS(t *testing.T, _ time.Duration) broker {
	t.Helper()
	b := &natsServer{t: t, addr: shoptest.FreeAddr(t), dir: t.TempDir()}
	b.start()
	return b
}

func (b *natsServer) url() string { return "nats://" + b.addr }

func (b *natsServer) kill() { b.process.Kill() }

func (b *natsServer) connect(t *testing.T) outboxbroker.Broker {
	t.Helper()
	connected, err := natsbroker.Connect(b.url(), natsbroker.Settings{}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(connected.Close)
	return connected
}

func (b *natsServer) start() {
	b.t.Helper()
	_, port, err := net.SplitHostPort(b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	b.process = startProcess(b.t, "nats", natsPort+"="+port, natsDir+"="+b.dir)
	shoptest.Eventually(b.t, fleet.Soon, "NATS answers", func() bool {
		conn, err := nats.Connect(b.url())
		if err != nil {
			return b.process.Gone()
		}
		defer conn.Close()
		js, err := jetstream.New(conn)
		if err != nil {
			return false
		}
		_, err = js.AccountInfo(b.t.Context())
		return err == nil
	})
	if b.process.Gone() {
		b.t.Fatalf("NATS has ended: %s", b.process.Output())
	}
}

// do asks the broker something.
func (b *natsServer) do(ask func(ctx context.Context, js jetstream.JetStream) error) error {
	b.t.Helper()
	conn, err := nats.Connect(b.url())
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	return ask(b.t.Context(), js)
}

// messages is how many events the stream holds.
func (b *natsServer) messages() (n int64) {
	b.t.Helper()
	err := b.do(func(ctx context.Context, js jetstream.JetStream) error {
		stream, err := js.Stream(ctx, natsbroker.EventStream)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		n = int64(stream.CachedInfo().State.Msgs)
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// pending is how many events the receipts' consumer has not acknowledged, -1 while there is no
// consumer.
func (b *natsServer) pending() int64 {
	info := b.consumer()
	if info == nil {
		return -1
	}
	return int64(info.NumPending) + int64(info.NumAckPending)
}

func (b *natsServer) consumer() (info *jetstream.ConsumerInfo) {
	_ = b.do(func(ctx context.Context, js jetstream.JetStream) error {
		consumer, err := js.Consumer(ctx, natsbroker.EventStream, notify.ConsumerName)
		if err == nil {
			info, err = consumer.Info(ctx)
		}
		return err
	})
	return info
}

// redeliver lets the time pass after which unacknowledged events come again, once a living node
// waits for them.
func (b *natsServer) redeliver() {
	b.t.Helper()
	var info *jetstream.ConsumerInfo
	shoptest.Eventually(b.t, fleet.Soon, "a node waits for events", func() bool {
		info = b.consumer()
		return info != nil && info.NumWaiting > 0
	})
	err := b.do(func(ctx context.Context, js jetstream.JetStream) error {
		config := info.Config
		config.AckWait = time.Second
		_, err := js.UpdateConsumer(ctx, natsbroker.EventStream, config)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
}
