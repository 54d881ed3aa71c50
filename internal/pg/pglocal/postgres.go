package pglocal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	pollInterval  = 10 * time.Millisecond
	startAttempts = 20                     // for transient failures: a lost port, backends of a killed server
	startPause    = 100 * time.Millisecond // between two attempts
	connectPolls  = 500                    // failed connections to a server that is ready by its pid file
	quitPatience  = 7 * time.Second        // Postgres itself kills its backends 5 s after SIGQUIT
)

// Config has the options of Start.
type Config struct {
	Dir      string       // has the data, the log and a lock; created if missing
	Password string       // of the superuser "shop"; "" lets in every local user (tests)
	Volatile bool         // faster, but loses committed transactions in a crash (tests)
	Settings []string     // further server settings, "name=value"
	Progress func(string) // called before slow steps, such as "creating the database"; may be nil
}

// Server is a running Postgres, a child of this process. On Linux it stops when this process ends,
// even by a crash.
type Server struct {
	cmd    *exec.Cmd
	url    string
	exited <-chan struct{} // the process is gone
	done   chan struct{}   // and its folder is unlocked
}

// Start starts a server on c.Dir and returns when the database "shop" answers. It creates the data
// on the first call. It first stops a server that an earlier process left on c.Dir. A c.Dir in use
// by another process is an error. If ctx ends before Start returns, no server is left running;
// later, ctx has no effect.
//
// Start looks for the programs in PG_BIN, in the usual folders of Linux distributions and Homebrew,
// and in PATH. Otherwise it downloads them to the user's cache folder (for root on Linux:
// /var/cache/onceshop). If that fails, it returns ErrNoPostgres.
//
// Postgres refuses to run as root. Under root the server therefore runs as the user postgres, or
// nobody. This user owns the data and must be able to reach c.Dir.
func Start(ctx context.Context, c Config) (*Server, error) {
	return startFrom(ctx, c, machine(ctx))
}

func startFrom(ctx context.Context, c Config, from source) (_ *Server, err error) {
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	k := &cluster{config: c}
	if err := k.open(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			k.lock.Close()
		}
	}()
	version, err := k.version()
	if err != nil {
		return nil, err
	}
	if k.binaries, err = from.find(ctx, version, k.owner, c.Progress); err != nil {
		return nil, err
	}
	if err := k.checkReachable(ctx); err != nil {
		return nil, err
	}
	if version == 0 {
		c.Progress("creating the database")
		err = k.initialize(ctx)
	} else {
		err = k.stopLeftover(ctx)
	}
	if err != nil {
		return nil, err
	}
	c.Progress("starting Postgres")
	p, err := k.serve(ctx)
	if err != nil {
		return nil, err
	}
	go func() {
		<-p.exited
		k.lock.Close()
		close(p.done)
	}()
	return p, nil
}

// URL returns the address of the database "shop":
// postgres://shop:…@127.0.0.1:PORT/shop?sslmode=disable.
func (p *Server) URL() string { return p.url }

// Pid returns the process id of the server's main process.
func (p *Server) Pid() int { return p.cmd.Process.Pid }

// Done returns a channel that is closed when the server has exited.
func (p *Server) Done() <-chan struct{} { return p.done }

// Stop closes the clients' connections and returns when the server has written everything and
// exited. If ctx ends before that, it kills the server and returns an error: the next start then
// needs a recovery, but no committed data is lost. Stop may be called again.
func (p *Server) Stop(ctx context.Context) error {
	_ = p.cmd.Process.Signal(syscall.SIGINT) // fails only if the server has exited
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		p.quit()
		<-p.done
		return fmt.Errorf("shutting Postgres down in order took too long, so it was ended at once: %w", ctx.Err())
	}
}

// quit ends the server without a shutdown and waits for it.
func (p *Server) quit() {
	_ = p.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-p.exited:
	case <-time.After(quitPatience):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// serve starts the server and waits until the database answers. It retries transient failures.
func (k *cluster) serve(ctx context.Context) (*Server, error) {
	_ = os.Rename(k.logFile(), k.logFile()+".1") // keeps the log of the previous run
	for attempt := 1; ; attempt++ {
		p, err := k.serveOnce(ctx)
		if err == nil {
			return p, nil
		}
		if attempt == startAttempts || !k.failedTransiently() {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(startPause):
		}
	}
}

func (k *cluster) serveOnce(ctx context.Context) (*Server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p, err := k.launch(context.WithoutCancel(ctx), port)
	if err != nil {
		return nil, err
	}
	if err := k.awaitReady(ctx, p); err != nil {
		p.quit()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w\nthe end of %s:\n%s", err, k.logFile(), k.logTail())
	}
	return p, nil
}

// launch starts the server's process. It runs until ctx ends.
func (k *cluster) launch(ctx context.Context, port int) (*Server, error) {
	log, err := os.OpenFile(k.logFile(),
		os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of Postgres: %w", err)
	}
	defer log.Close()
	args := []string{"-D", k.data(), "-p", strconv.Itoa(port), "-h", "127.0.0.1", "-k", ""}
	settings := k.config.Settings
	if k.config.Volatile {
		settings = append([]string{"fsync=off", "synchronous_commit=off", "full_page_writes=off"}, settings...)
	}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	// SIGINT shuts the server down in order even if this process is killed: only open transactions
	// roll back.
	cmd := k.command(ctx, syscall.SIGINT, "postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log

	address := url.URL{Scheme: "postgres", User: url.User("shop"), Host: "127.0.0.1:" + strconv.Itoa(port),
		Path: "/shop", RawQuery: "sslmode=disable"}
	if k.config.Password != "" {
		address.User = url.UserPassword("shop", k.config.Password)
	}
	exited, err := start(cmd)
	if err != nil {
		return nil, fmt.Errorf("start Postgres: %w", err)
	}
	return &Server{cmd: cmd, url: address.String(), exited: exited, done: make(chan struct{})}, nil
}

// awaitReady returns when the database "shop" exists and answers.
func (k *cluster) awaitReady(ctx context.Context, p *Server) error {
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	var refused int
	for {
		select {
		case <-p.exited:
			return errors.New("the database server exited while it started")
		case <-ctx.Done():
			return ctx.Err()
		case <-poll.C:
		}
		// Another server may have taken the port first, so check the pid file too.
		if pid, state := k.recorded(); pid != p.Pid() || state != "ready" {
			continue
		}
		err := createDatabase(ctx, p.url)
		var answer *pgconn.PgError
		answered := errors.As(err, &answer)
		switch {
		case err == nil:
			return nil
		case !answered && refused < connectPolls:
			refused++ // the pid file of an earlier server can have the same process id
		case answered && answer.Code == "57P03": // starting up
		case answered && answer.Code == "28P01":
			return fmt.Errorf("%s was made with another password: restore that one, or start over with --fresh: %w",
				k.data(), err)
		default:
			return fmt.Errorf("connect to Postgres: %w", err)
		}
	}
}

// createDatabase creates the database of the url unless it exists.
func createDatabase(ctx context.Context, url string) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	name := config.Database
	config.Database = "postgres"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var exists bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, name).Scan(&exists)
	if err != nil || exists {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	return err
}

func (k *cluster) logFile() string { return filepath.Join(k.dir, "postgres.log") }

// logTail returns the last lines of the server's log since its last start.
func (k *cluster) logTail() string {
	const lines = 20
	log, err := os.ReadFile(k.logFile())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(log)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// failedTransiently reports whether the server's log ends with a transient failure.
func (k *cluster) failedTransiently() bool {
	tail := k.logTail()
	return strings.Contains(tail, "could not create any TCP/IP sockets") || // the port was taken
		strings.Contains(tail, "is still in use") // backends of a killed server have not all noticed
}

// freePort returns a port of 127.0.0.1 that is free now. Another process may take it before the
// caller does.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
