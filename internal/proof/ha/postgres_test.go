package ha

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/pg/pglocal"
	"github.com/onceshop/onceshop/internal/proof/fleet"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// pair is a Postgres primary whose commits wait for a standby.
type pair struct {
	t       *testing.T
	dir     string
	primary *pglocal.Server
	owner   *syscall.Credential // of the data; nil: this process's user
	bin     string
	standby string // its address
	url     string // both hosts
}

func startPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{t: t, dir: shared(t)}
	var err error
	p.primary, err = pglocal.Start(t.Context(),
		pglocal.Config{Dir: filepath.Join(p.dir, "a"), Settings: []string{"max_connections=80"}})
	if errors.Is(err, pglocal.ErrNoPostgres) {
		shoptest.Missing(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	p.owner = owner(t, filepath.Join(p.dir, "a", "data"))
	p.bin = ask[string](p, p.primary.URL(), "SELECT setting FROM pg_config WHERE name = 'BINDIR'")
	p.follow()
	u, err := url.Parse(p.primary.URL())
	if err != nil {
		t.Fatal(err)
	}
	p.url = fmt.Sprintf("postgres://shop@%s,%s/shop?sslmode=disable&target_session_attrs=read-write&connect_timeout=2",
		u.Host, p.standby)
	return p
}

// follow starts the standby, and makes the primary wait for it with every commit.
func (p *pair) follow() {
	t := p.t
	t.Helper()
	data := filepath.Join(p.dir, "b")
	backup := p.command("pg_basebackup", "-d", p.primary.URL(), "-D", data, "-R", "-X", "stream", "-c", "fast",
		"--no-sync")
	if out, err := backup.CombinedOutput(); err != nil {
		t.Fatalf("copy the primary: %v: %s", err, out)
	}
	p.standby = shoptest.FreeAddr(t)
	s := fleet.Start(t, "the standby",
		p.command("postgres", "-D", data, "-h", "127.0.0.1", "-p", port(t, p.standby), "-k", ""))
	s.AwaitListening(p.standby)
	for _, statement := range []string{"ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"} {
		p.exec(p.primary.URL(), statement)
	}
	shoptest.Eventually(t, fleet.Soon, "the standby is synchronous", func() bool {
		return ask[int](p, p.primary.URL(), "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == 1
	})
}

// promote makes the standby the primary.
func (p *pair) promote() {
	p.t.Helper()
	if !ask[bool](p, p.standbyURL(), "SELECT pg_promote()") {
		p.t.Fatal("the standby is not promoted")
	}
}

func (p *pair) standbyURL() string { return "postgres://shop@" + p.standby + "/shop?sslmode=disable" }

// freeze stops every process of the primary. Its connections stay open and answer nothing.
func (p *pair) freeze() {
	t := p.t
	t.Helper()
	conn := p.connect(p.primary.URL())
	defer conn.Close(context.WithoutCancel(t.Context()))
	rows, err := conn.Query(t.Context(), "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
	if err != nil {
		t.Fatal(err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range append([]int{p.primary.Pid()}, pids...) {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) }) // before the server's own end
	}
}

// end ends the primary, which may wait for its standby.
func (p *pair) end() {
	_ = syscall.Kill(p.primary.Pid(), syscall.SIGQUIT) // fails only if it has exited
	select {
	case <-p.primary.Done():
	case <-time.After(fleet.Soon):
		p.t.Error("the old primary does not end")
	}
}

func (p *pair) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, program), args...)
	cmd.Dir, cmd.SysProcAttr = p.dir, &syscall.SysProcAttr{Credential: p.owner}
	return cmd
}

func (p *pair) connect(address string) *pgx.Conn {
	p.t.Helper()
	conn, err := pgx.Connect(p.t.Context(), address)
	if err != nil {
		p.t.Fatal(err)
	}
	return conn
}

func (p *pair) exec(address, statement string) {
	p.t.Helper()
	conn := p.connect(address)
	defer conn.Close(context.WithoutCancel(p.t.Context()))
	if _, err := conn.Exec(p.t.Context(), statement); err != nil {
		p.t.Fatalf("%s: %v", statement, err)
	}
}

func ask[T any](p *pair, address, query string) (value T) {
	p.t.Helper()
	conn := p.connect(address)
	defer conn.Close(context.WithoutCancel(p.t.Context()))
	if err := conn.QueryRow(p.t.Context(), query).Scan(&value); err != nil {
		p.t.Fatalf("%s: %v", query, err)
	}
	return value
}

// shared makes a folder, in memory where possible, that the unprivileged user of a server can write
// to.
func shared(t *testing.T) string {
	t.Helper()
	base := ""
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		base = "/dev/shm"
	}
	dir, err := os.MkdirTemp(base, "onceshop-ha-") //nolint:usetesting // in memory, and open to another user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// owner returns the user that a file belongs to, or nil for this process's own.
func owner(t *testing.T, path string) *syscall.Credential {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatalf("no owner of %s", path)
	}
	if int(stat.Uid) == os.Geteuid() {
		return nil
	}
	return &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}
}

// The primary is lost in one of three ways under load, and the standby is promoted. The nodes find
// it by themselves, and no acknowledged order is lost.
func TestPostgresFailOver(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	for name, lose := range map[string]func(p *pair, b *buyers){
		"killed": func(p *pair, _ *buyers) {
			if err := syscall.Kill(p.primary.Pid(), syscall.SIGKILL); err != nil {
				p.t.Fatal(err)
			}
		},
		"read-only under live sessions": func(p *pair, _ *buyers) {
			p.exec(p.primary.URL(), "ALTER SYSTEM SET default_transaction_read_only = on")
			p.exec(p.primary.URL(), "SELECT pg_reload_conf()")
		},
		// Tools that promote a standby wait longer for a silent primary than its buyers do.
		"frozen": func(p *pair, b *buyers) {
			before := b.failed()
			p.freeze()
			shoptest.Eventually(p.t, fleet.Soon, "a buyer was put off", func() bool { return b.failed() > before })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPair(t)
			w := setup(t, map[string]string{"DATABASE_URL": p.url})
			nodes := []*node{w.serve(), w.serve()}
			buyers := w.buy(8, nodes[0].addr, nodes[1].addr)
			buyers.more(100)
			lose(p, buyers)
			p.promote()
			promoted := time.Now()
			again := buyers.again(t, promoted)
			t.Logf("FIGURES orders again %s after the promotion", again)
			if again > 5*time.Second {
				t.Errorf("orders again %s after the promotion, want less than 5 s", again)
			}
			buyers.more(100)
			for _, n := range nodes {
				shoptest.Eventually(t, fleet.Soon, "the node is ready", n.Ready)
			}
			buyers.verify()
		})
	}
}
