package embedded

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/onceshop/onceshop/internal/pg/pglocal"
)

// natsReady bounds how long StartNATS waits; recovering a large stream takes the longest.
const natsReady = 30 * time.Second

// NATS is a NATS server with JetStream inside this process.
type NATS struct {
	server *server.Server
	url    string
	lock   *pglocal.FolderLock
}

// oneStart keeps servers that tests start at the same time apart: the library sets package
// variables meanwhile.
var oneStart sync.Mutex

// StartNATS starts a NATS server whose streams live in dir (created when missing) and survive Stop.
// Every publish is on disk before it is acknowledged. It returns once clients can connect; only
// clients that know URL get in. A dir that another running server uses is an error.
func StartNATS(dir string) (*NATS, error) {
	return startOn(dir, "127.0.0.1", server.RANDOM_PORT, "shop", newPassword())
}

// StartNATSAt is StartNATS on the address of a URL such as nats://user:password@127.0.0.1:4222.
func StartNATSAt(dir, address string) (*NATS, error) {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || u.User == nil {
		return nil, errors.New("BROKER_URL is not an address such as nats://user:password@127.0.0.1:4222")
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return nil, fmt.Errorf("BROKER_URL has no port: %w", err)
	}
	password, _ := u.User.Password()
	return startOn(dir, u.Hostname(), port, u.User.Username(), password)
}

func startOn(dir, host string, port int, user, password string) (_ *NATS, err error) {
	lock, err := pglocal.LockFolder(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	oneStart.Lock()
	defer oneStart.Unlock()
	s, err := server.NewServer(&server.Options{
		Host:       host,
		Port:       port,
		Username:   user,
		Password:   password,
		JetStream:  true,
		StoreDir:   dir,
		SyncAlways: true,
		NoLog:      true,
		NoSigs:     true,
	})
	if err != nil {
		return nil, fmt.Errorf("configure the embedded NATS: %w", err)
	}
	if err := startNATS(s); err != nil {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("start the embedded NATS in %s: %w", dir, err)
	}
	return &NATS{server: s, url: serverURL("nats", user, password, s.Addr().String()), lock: lock}, nil
}

func startNATS(s *server.Server) error {
	var failure natsFailure
	s.SetLogger(&failure, false, false)
	s.Start()
	if reason := failure.text.Load(); reason != nil {
		return errors.New(*reason)
	}
	if !s.ReadyForConnections(natsReady) {
		return fmt.Errorf("not ready for clients within %s", natsReady)
	}
	return nil
}

// URL is the server's address, nats://…, with its password.
func (n *NATS) URL() string { return n.url }

// Stop closes the clients' connections, and returns when the streams are safe on disk. Stopping
// twice is fine.
func (n *NATS) Stop() {
	n.server.Shutdown()
	n.server.WaitForShutdown()
	n.lock.Close()
}

// natsFailure is a server.Logger that keeps why a start failed: the server tells nobody else.
type natsFailure struct{ text atomic.Pointer[string] }

func (f *natsFailure) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	f.text.Store(&text)
}
func (*natsFailure) Errorf(string, ...any)  {}
func (*natsFailure) Warnf(string, ...any)   {}
func (*natsFailure) Noticef(string, ...any) {}
func (*natsFailure) Debugf(string, ...any)  {}
func (*natsFailure) Tracef(string, ...any)  {}
