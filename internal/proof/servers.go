// Package proof runs the lab, the bench and the torture for their commands, and the lab's pages.
package proof

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/pg/pglocal"
	"github.com/onceshop/onceshop/internal/proof/lab"
)

// stopTimeout bounds the end of a database server.
const stopTimeout = 10 * time.Second

// DemoServers start servers of the demo in this process. Each function returns where its server
// answers and what stops it. They are nil in a program that is built without the demo.
type DemoServers struct {
	Redis, NATS, Provider func() (url string, stop func(), err error)
	Mailbox               func() (smtpURL, pageURL string, stop func(), err error)
}

// witnesses are the servers that a lab starts for itself.
func (s DemoServers) witnesses() lab.Witnesses {
	return lab.Witnesses{Provider: s.Provider, Mailbox: s.Mailbox}
}

// errWithout reports what a program without the demo lacks, and what helps.
func errWithout(server, instead string) error {
	return app.UsageError{Err: fmt.Errorf("this program is built without internal/demo and has no %s: %s", server,
		instead)}
}

// servers are started for one run and leave nothing behind.
type servers struct {
	config app.Config
	demo   DemoServers
	out    io.Writer
	dir    string
	stops  []func()
}

// stop ends the servers in the reverse order of their start.
func (s *servers) stop() {
	for i := len(s.stops) - 1; i >= 0; i-- {
		s.stops[i]()
	}
}

// startForLab starts the servers that the lab needs and config does not name.
func (s *servers) startForLab(ctx context.Context) error {
	missing := []struct {
		given string
		start func() error
	}{
		{s.config.DatabaseURL, func() error { return s.startPostgres(ctx) }},
		{s.config.RedisURL, s.startRedis},
		{s.config.BrokerURL, s.startNATS},
	}
	for _, server := range missing {
		if server.given != "" {
			continue
		}
		if len(s.stops) == 0 {
			fmt.Fprintln(s.out, "No demo is running, and the environment does not name all servers. "+
				"Starting the missing ones, for this run only:")
		}
		if err := server.start(); err != nil {
			return err
		}
	}
	return nil
}

// folder returns a temporary folder for a server's data.
func (s *servers) folder(name string) (string, error) {
	if s.dir == "" {
		dir, err := os.MkdirTemp("", "onceshop-")
		if err != nil {
			return "", fmt.Errorf("make a folder for the servers: %w", err)
		}
		s.dir = dir
		s.stops = append(s.stops, func() { _ = os.RemoveAll(dir) })
		// As root, Postgres runs as another user, which must be able to enter the folder.
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the folders in it are closed
			return "", err
		}
	}
	return filepath.Join(s.dir, name), nil
}

// step shows what is being started and how long it took.
func (s *servers) step(name string, run func() error) error {
	begin := time.Now()
	fmt.Fprintf(s.out, "  %-28s ", name)
	if err := run(); err != nil {
		fmt.Fprintln(s.out, "failed")
		return err
	}
	fmt.Fprintf(s.out, "%.1f s\n", time.Since(begin).Seconds())
	return nil
}

func (s *servers) startPostgres(ctx context.Context) error {
	return s.step("Postgres", func() error {
		dir, err := s.folder("postgres")
		if err != nil {
			return err
		}
		server, err := pglocal.Start(ctx, pglocal.Config{Dir: dir, Password: rand.Text(),
			Progress: func(doing string) { fmt.Fprintf(s.out, "%s … ", doing) }})
		if err != nil {
			return err
		}
		s.stops = append(s.stops, func() {
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
			defer cancel()
			_ = server.Stop(stop) // its folder goes in any case
		})
		s.config.DatabaseURL = server.URL()
		return nil
	})
}

func (s *servers) startRedis() error {
	if s.demo.Redis == nil {
		return errWithout("Redis", "name one in REDIS_URL")
	}
	return s.step("Redis (in process)", func() error { return s.startHere(s.demo.Redis, &s.config.RedisURL) })
}

func (s *servers) startNATS() error {
	if s.demo.NATS == nil {
		return errWithout("NATS", "name one in BROKER_URL")
	}
	return s.step("NATS JetStream, synced", func() error { return s.startHere(s.demo.NATS, &s.config.BrokerURL) })
}

func (s *servers) startHere(start func() (url string, stop func(), err error), url *string) error {
	address, stop, err := start()
	if err != nil {
		return err
	}
	s.stops, *url = append(s.stops, stop), address
	return nil
}
