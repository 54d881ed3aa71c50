package lab

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Every experiment shows a constraint or a bound, a statement and code for both twins, as they are
// in the repository.
func TestSourcesOfExperiments(t *testing.T) {
	t.Parallel()
	for _, e := range Experiments() {
		for side, twin := range map[Side]Twin{NaiveSide: e.Naive, GuardedSide: e.Guarded} {
			for what, refs := range map[string][]string{"constraint": twin.Constraint, "statement": twin.Statement,
				"code": twin.Code} {
				if len(refs) == 0 {
					t.Errorf("%s: the %s twin shows no %s", e.ID, side, what)
				}
				for _, ref := range refs {
					if source, err := SourceOf(ref); err != nil {
						t.Errorf("%s: %v", e.ID, err)
					} else if !inRepository(t, source) {
						t.Errorf("%s: %s is not at %s:\n%s", e.ID, ref, source.Place, source.Text)
					}
				}
			}
		}
	}
}

// An experiment about UNIQUE keys shows the key, and the INSERT that meets it. So does each one
// whose guarded twin has a row that decides behind its hint.
func TestExperimentsShowTheKeyThatDecides(t *testing.T) {
	t.Parallel()
	for _, e := range Experiments() {
		constraints, statements := textOf(t, e.Guarded.Constraint), textOf(t, e.Guarded.Statement)
		if !strings.Contains(constraints, "UNIQUE") && !strings.Contains(constraints, "PRIMARY KEY") {
			t.Errorf("%s shows no unique key:\n%s", e.ID, constraints)
		}
		if e.Strategy != Broker && !strings.Contains(statements, "ON CONFLICT") ||
			!strings.Contains(statements, "INSERT INTO") {
			t.Errorf("%s shows no INSERT … ON CONFLICT:\n%s", e.ID, statements)
		}
		if e.Strategy == Unique && !strings.Contains(constraints, "UNIQUE") {
			t.Errorf("%s shows no UNIQUE constraint:\n%s", e.ID, constraints)
		}
	}
}

func textOf(t *testing.T, refs []string) string {
	t.Helper()
	var all strings.Builder
	for _, ref := range refs {
		source, err := SourceOf(ref)
		if err != nil {
			t.Error(err)
		}
		all.WriteString(source.Text + "\n")
	}
	return all.String()
}

// inRepository reports whether the lines of the text are in the file from the line of its place on.
// Lines that are left out may be between them.
func inRepository(t *testing.T, source Source) bool {
	t.Helper()
	file, lineText, _ := strings.Cut(source.Place, ":")
	line, err := strconv.Atoi(lineText)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "..", filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	rest, gap := strings.Split(string(text), "\n")[line-1:], false
	for want := range strings.SplitSeq(source.Text, "\n") {
		if want == omitted {
			gap = true
			continue
		}
		for gap && len(rest) > 0 && rest[0] != want {
			rest = rest[1:]
		}
		if len(rest) == 0 || strings.TrimLeft(rest[0], "\t") != strings.TrimLeft(want, "\t") {
			return false
		}
		rest, gap = rest[1:], false
	}
	return true
}

func TestSourceOf(t *testing.T) {
	t.Parallel()
	for ref, want := range map[string]struct{ begins, has, ends string }{
		"internal/orders/place.go:Service.Place": {"// Place ", "\nfunc (s *Service) Place(", "\n}"},
		"internal/dedup/memory.go:Seen":          {"// Seen ", "\ntype Seen struct {", "\n}"},
		"internal/dedup/redis.go:Claims.Claim~SetArgs": {"err := c.client.SetArgs(", `Mode: "NX"`,
			"TTL: lease}).Err()"},
		"internal/proof/lab/unique_naive.go:naiveShop.payOncePerKey~INSERT": {"claimed, err := s.exec(",
			"\n\t\"DO NOTHING\"", "orderID)"},
		"db/queries/orders/place.sql:InsertOrders": {"-- InsertOrders ", "ON CONFLICT ON CONSTRAINT",
			"RETURNING id;"},
		"db/migrations/00002_orders.sql:orders_one_per_key": {"-- An order ",
			"\nCREATE TABLE orders (\n    …\n    customer_id ", " UNIQUE (customer_id, idempotency_key),\n    …\n);"},
		"db/migrations/00003_payments.sql:charges_one_live_per_order": {"CREATE UNIQUE INDEX ", " WHERE pays ",
			"'declined';"},
		"db/migrations/00005_notify.sql:receipts~PRIMARY KEY": {"-- Mail sent ", "\n    order_id ", "\n);"},
		"internal/proof/lab/naive_orders.sql:orders": {"-- A common first", "\n    idempotency_key text,\n",
			");"},
	} {
		source, err := SourceOf(ref)
		if err != nil {
			t.Error(err)
			continue
		}
		if !strings.HasPrefix(source.Text, want.begins) || !strings.Contains(source.Text, want.has) ||
			!strings.HasSuffix(source.Text, want.ends) || !inRepository(t, source) {
			t.Errorf("%s is at %s:\n%s", ref, source.Place, source.Text)
		}
	}
	for _, ref := range []string{"internal/orders/place.go:Place", "internal/orders/place.go",
		"internal/orders/place.go:Service.Place~nowhere", "internal/orders/nowhere.go:F", "nowhere.go:F",
		"db/queries/orders/place.sql:Nothing", "db/migrations/00002_orders.sql:nothing", ""} {
		if source, err := SourceOf(ref); err == nil {
			t.Errorf("%q shows %s:\n%s", ref, source.Place, source.Text)
		}
	}
}
