package app_test

import (
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/onceshop/onceshop/internal/shoptest"
)

// broker is a NATS server whose address is known before it runs.
type broker struct {
	options *server.Options
	url     string
}

func newBroker(t *testing.T) *broker {
	t.Helper()
	addr, err := net.ResolveTCPAddr("tcp", shoptest.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	return &broker{url: "nats://" + addr.String(), options: &server.Options{
		Host: addr.IP.String(), Port: addr.Port, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true}}
}

func (b *broker) start(t *testing.T) {
	t.Helper()
	s, err := server.NewServer(b.options)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("NATS does not start")
	}
}
