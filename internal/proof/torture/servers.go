package torture

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/pg/pglocal"
)

// ErrNoRedis tells how to get what the run cannot do without.
var ErrNoRedis = errors.New("shop torture needs a real Redis: apt-get install redis-server, or brew install redis")

// server is a child that comes back on the same address.
type server struct {
	name, address string
	start         func() (*process, error)

	mu sync.Mutex
	*process
}

// up starts the server unless it runs, and waits until it answers.
func (s *server) up(ctx context.Context) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		return nil
	}
	p, err := s.start()
	if err != nil {
		return err
	}
	if err := answers(ctx, p, s.address); err != nil {
		p.kill()
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	s.process = p
	return nil
}

// down kills the server if it runs.
func (s *server) down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		s.kill()
		s.process = nil
	}
}

// postgres is the database. It takes another port at every start, the edges follow.
type postgres struct {
	dir   string
	cell  string
	edges []*edge

	mu     sync.Mutex
	server *pglocal.Server
	url    string
	// Pool goes around the edges: it is for the one who checks.
	pool *pgxpool.Pool
}

// up starts the server unless it runs.
func (p *postgres) up(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		return nil
	}
	started, err := pglocal.Start(ctx, pglocal.Config{Dir: p.dir, Settings: []string{"max_connections=100"}})
	if err != nil {
		return fmt.Errorf("start Postgres: %w", err)
	}
	address, err := url.Parse(started.URL())
	if err != nil {
		return errors.Join(fmt.Errorf("read the address of Postgres: %w", err), started.Stop(ctx))
	}
	for _, e := range p.edges {
		if err := e.pointTo(address.Host); err != nil {
			return errors.Join(err, started.Stop(ctx))
		}
	}
	if p.cell != "" {
		query := address.Query()
		query.Set("search_path", p.cell)
		address.RawQuery = query.Encode()
	}
	pool, err := pg.Open(ctx, address.String(), 8)
	if err != nil {
		return errors.Join(err, started.Stop(ctx))
	}
	p.server, p.pool, p.url = started, pool, address.String()
	return nil
}

// down ends the server by a signal: SIGQUIT is `stop -m immediate`.
func (p *postgres) down(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return
	}
	p.pool.Close()
	_ = syscall.Kill(p.server.Pid(), sig) // fails only when it is gone
	<-p.server.Done()
	p.server, p.pool = nil, nil
}

// stop ends the server in order.
func (p *postgres) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return
	}
	p.pool.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = p.server.Stop(ctx) // what it wrote is deleted or looked at, either is fine
	p.server, p.pool = nil, nil
}

// direct is the pool around the edges; nil while the server is down.
func (p *postgres) direct() *pgxpool.Pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pool
}

// servers are the shop's surroundings.
type servers struct {
	postgres                  *postgres
	redis, nats, psp, mailbox *server
	smtpAddress               string
	webhookSecret             string
	broker                    broker
	webhooks                  *edge // from the provider to a node
}

func (r *run) startServers(ctx context.Context) error {
	redis, err := exec.LookPath("redis-server")
	if err != nil {
		return ErrNoRedis
	}
	at := make([]string, 6)
	for i := range at {
		if at[i], err = r.addresses.free(); err != nil {
			return err
		}
	}
	s := &r.servers
	if r.BrokerURL == "" {
		s.broker = broker{url: "nats://torture:torture@" + at[1], host: at[1]}
		s.nats = r.shopServer("nats", at[1], []string{"BROKER_URL=" + s.broker.url}, "--dir",
			filepath.Join(r.dir, "nats"))
	} else if err := r.useBroker(ctx); err != nil {
		return err
	}
	s.postgres = &postgres{dir: filepath.Join(r.dir, "postgres"), cell: s.broker.cell}
	s.smtpAddress, s.webhookSecret = at[4], "whsec_dG9ydHVyZS10b3J0dXJlLXRvcnR1cmU="
	if s.webhooks, err = r.edges.open("provider>nodes", at[5]); err != nil {
		return err
	}
	host, port := split(at[0])
	s.redis = &server{name: "redis", address: at[0], start: func() (*process, error) {
		return r.startProcess("redis", nil, redis, "--bind", host, "--port", port, "--save", "", "--appendonly", "no",
			"--dir", r.dir)
	}}
	s.psp = r.shopServer("psp", at[2], []string{"SHOP_PSP_ADDR=" + at[2], "PSP_WEBHOOK_SECRET=" + s.webhookSecret},
		"--webhook-url", "http://"+s.webhooks.address()+"/v1/webhooks/payments", "--log",
		filepath.Join(r.dir, "provider.jsonl"))
	s.mailbox = r.shopServer("mailbox", at[3],
		[]string{"SHOP_MAILBOX_ADDR=" + at[3], "SHOP_MAILBOX_SMTP_ADDR=" + s.smtpAddress},
		"--dir", filepath.Join(r.dir, "mail"))
	if err := s.postgres.up(ctx); err != nil {
		return err
	}
	for _, server := range []*server{s.redis, s.nats, s.psp, s.mailbox} {
		if server == nil { // the broker is not the run's own
			continue
		}
		if err := server.up(ctx); err != nil {
			return err
		}
	}
	return nil
}

// shopServer is a command of our own program.
func (r *run) shopServer(command, address string, env []string, args ...string) *server {
	return &server{name: command, address: address, start: func() (*process, error) {
		return r.startProcess(command, env, r.Program, append([]string{command}, args...)...)
	}}
}

func (s *servers) stop() {
	for _, server := range []*server{s.mailbox, s.psp, s.nats, s.redis} {
		if server != nil {
			server.down()
		}
	}
	if s.postgres != nil {
		s.postgres.stop()
	}
}
