package ha

import (
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/proof/fleet"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// pooler is PgBouncer.
type pooler struct {
	*fleet.Process
	addr, role string
}

// documented returns a block of docs/operations.md, Poolers.
func documented(t *testing.T, language string) string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Poolers\n")
	section, _, _ = strings.Cut(section, "\n## ")
	_, block, foundBlock := strings.Cut(section, "\n```"+language+"\n")
	block, _, _ = strings.Cut(block, "\n```")
	if !found || !foundBlock {
		t.Fatalf("docs/operations.md has no block of %s under Poolers", language)
	}
	return block
}

var databaseLine = regexp.MustCompile(`(?m)^shop = .*$`)

// pool starts a PgBouncer with the documented configuration, but for its mode and what further is
// changed, before the database. It lets in the role without a password.
func (w *world) pool(role, mode string, change ...string) *pooler {
	t := w.t
	t.Helper()
	bouncer := program(t, "pgbouncer", "pgbouncer")
	u, err := url.Parse(w.environ["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	p := &pooler{addr: shoptest.FreeAddr(t), role: role}
	dir := shared(t)
	users := filepath.Join(dir, "users.txt")
	config := databaseLine.ReplaceAllString(documented(t, "ini"), fmt.Sprintf("shop = host=%s port=%s dbname=%s",
		u.Hostname(), u.Port(), strings.TrimPrefix(u.Path, "/")))
	config = strings.NewReplacer(append(change, "pool_mode = transaction", "pool_mode = "+mode)...).Replace(config)
	config += fmt.Sprintf("\nlisten_addr = 127.0.0.1\nlisten_port = %s\nunix_socket_dir =\nauth_type = trust\n"+
		"auth_file = %s\n", port(t, p.addr), users)
	if keepsStatements(t, bouncer) {
		config += "max_prepared_statements = 200\n"
	}
	path := filepath.Join(dir, "pgbouncer.ini")
	for name, text := range map[string]string{path: config, users: `"` + role + `" ""` + "\n"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(bouncer, path)
	if os.Geteuid() == 0 {
		cmd.Args = append(cmd.Args, "-u", "nobody") // it refuses to run as root
	}
	p.Process = fleet.Start(t, "pgbouncer in "+mode+" mode", cmd)
	p.AwaitListening(p.addr)
	return p
}

// keepsStatements reports whether this PgBouncer, 1.21 or newer, can keep prepared statements
// between transactions.
func keepsStatements(t *testing.T, bouncer string) bool {
	t.Helper()
	out, err := exec.Command(bouncer, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(out), "PgBouncer %d.%d", &major, &minor); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	return major > 1 || minor >= 21
}

// role makes a role of the tests' server. Its name is used once, so it need not be dropped.
func (w *world) role(options string) (name string) {
	w.t.Helper()
	name = "shop_" + strings.ToLower(rand.Text())
	w.Exec(w.t, "CREATE ROLE "+name+" LOGIN "+options)
	return name
}

func (p *pooler) url(parameters string) string {
	return "DATABASE_URL=postgres://" + p.role + "@" + p.addr + "/shop?sslmode=disable" + parameters
}

const cacheDescribe = "&default_query_exec_mode=cache_describe"

// PgBouncer works as docs/operations.md describes it, in both of its modes, with prepared
// statements and without. What cannot work is refused at the start, by the name of the setting.
func TestPooler(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	w := setup(t, nil)
	pooled := w.role("SUPERUSER")
	session := w.pool(pooled, "session")
	lacking := w.serve(session.url(""))
	shoptest.Eventually(t, fleet.Soon, "a warning that the pooler ignores settings", func() bool {
		return lacking.Wrote("sessions lack settings") && lacking.Wrote("plan_cache_mode")
	})
	lacking.Kill()
	strict := w.pool(pooled, "session", "ignore_startup_parameters", ";ignore_startup_parameters")
	w.refuses(strict.url(""), "ignore_startup_parameters")
	w.refuses(session.url("&default_query_exec_mode=exec"), "default_query_exec_mode")

	for line := range strings.Lines(documented(t, "sql")) {
		w.Exec(t, strings.ReplaceAll(line, "ROLE shop ", "ROLE "+pooled+" "))
	}
	session.Kill() // its connections to the server are older than the role's settings
	session = w.pool(pooled, "session")
	transaction := w.pool(pooled, "transaction")
	for _, c := range []struct {
		pooler     *pooler
		parameters string
	}{{session, ""}, {session, cacheDescribe}, {transaction, cacheDescribe}, {transaction, ""}} {
		if c.pooler == transaction && c.parameters == "" && !keepsStatements(t, program(t, "pgbouncer", "pgbouncer")) {
			w.refuses(transaction.url(""), "default_query_exec_mode=cache_describe")
			continue
		}
		w.nodes = nil
		n := w.serve(c.pooler.url(c.parameters))
		buyers := w.buy(8, n.addr)
		buyers.more(100)
		buyers.verify()
		if len(buyers.failures) > 0 || n.Wrote("sessions lack settings") {
			t.Errorf("%s %q: %d requests failed: %s", c.pooler.Name, c.parameters, len(buyers.failures), n.Output())
		}
		n.Kill()
	}
}

// refuses starts a node that must end with an error that has the text.
func (w *world) refuses(setting, text string) {
	w.t.Helper()
	n := w.launch(shoptest.FreeAddr(w.t), setting)
	if code := n.AwaitExit().ExitStatus(); code != 2 || !n.Wrote(text) || !n.Wrote("DATABASE_URL") {
		w.t.Errorf("with %s the node ended with %d: %s", setting, code, n.Output())
	}
}

// Two nodes fill the connections that their role may have. Requests wait for one of them.
func TestRoleLimit(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	w := setup(t, nil)
	role := w.role("CONNECTION LIMIT 6") // superusers have no limit
	w.Exec(t, "GRANT ALL ON ALL TABLES IN SCHEMA public TO "+role)
	w.Exec(t, "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO "+role)
	u, err := url.Parse(w.environ["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	nodes := []*node{w.serve("DATABASE_URL=" + u.String()), w.serve("DATABASE_URL=" + u.String())}
	buyers := w.buy(24, nodes[0].addr, nodes[1].addr)
	buyers.more(400)
	// A node that is refused gives back what it holds, so they do not hold all 6 all the time.
	shoptest.Eventually(t, fleet.Soon, "the nodes hold all 6 connections", func() bool {
		return w.Count(t, "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", role) == 6
	})
	buyers.verify()
	// On a busy machine a request may wait past its deadline. It is answered 503 and sent again.
	if len(buyers.failures) > buyers.acknowledged()/100 {
		t.Errorf("%d requests failed: %s", len(buyers.failures), buyers.failures[0])
	}
}
