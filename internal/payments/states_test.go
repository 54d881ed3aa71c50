package payments_test

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/onceshop/onceshop/internal/orders"
)

// drawnStep is an arrow of docs/states.md. From or to is "" for its beginning or end.
type drawnStep struct{ object, from, to string }

var (
	picture = regexp.MustCompile("(?s)## ([A-Z][a-z]+)[^\n]*\n+```mermaid\n(.*?)```")
	arrow   = regexp.MustCompile(`(?m)^ +(\S+) --> ([a-z_]+|\[\*\])(:.*)?$`)
)

// drawn returns the arrows of docs/states.md.
func drawn(t testing.TB) (steps []drawnStep) {
	t.Helper()
	text, err := os.ReadFile("../../docs/states.md")
	if err != nil {
		t.Fatal(err)
	}
	end := func(state string) string {
		if state == "[*]" {
			return ""
		}
		return state
	}
	for _, p := range picture.FindAllStringSubmatch(string(text), -1) {
		for _, a := range arrow.FindAllStringSubmatch(p[2], -1) {
			steps = append(steps, drawnStep{p[1], end(a[1]), end(a[2])})
		}
	}
	return steps
}

// columns hold the state of each object.
var columns = map[string]struct{ table, column string }{
	"Charge": {"charges", "status"}, "Refund": {"refunds", "status"}, "Dispute": {"disputes", "status"},
	"Event": {"provider_events", "state"}, "Order": {"orders", "status"},
}

// guardSteps lets the database refuse a step that docs/states.md does not draw, unless a test takes
// it by hand.
func (b *bundle) guardSteps(t testing.TB) {
	t.Helper()
	b.exec(t, `CREATE TABLE drawn (object text, before text, after text)`)
	for _, s := range drawn(t) {
		b.exec(t, "INSERT INTO drawn VALUES ($1, $2, $3)", columns[s.object].table, s.from, s.to)
	}
	b.exec(t, `CREATE FUNCTION guard_step() RETURNS trigger LANGUAGE plpgsql AS $$
		DECLARE was text := ''; becomes text := to_jsonb(NEW) ->> TG_ARGV[0];
		BEGIN
			IF TG_OP = 'UPDATE' THEN was := to_jsonb(OLD) ->> TG_ARGV[0]; END IF;
			IF was <> becomes AND NOT EXISTS (SELECT FROM drawn d
				WHERE (d.object, d.before, d.after) = (TG_TABLE_NAME, was, becomes)) THEN
				RAISE EXCEPTION 'docs/states.md draws no step of % from "%" to "%"', TG_TABLE_NAME, was, becomes;
			END IF;
			RETURN NULL;
		END $$`)
	for _, c := range columns {
		b.exec(t, "CREATE TRIGGER guard_step AFTER INSERT OR UPDATE OF "+c.column+" ON "+c.table+
			" FOR EACH ROW EXECUTE FUNCTION guard_step('"+c.column+"')")
	}
}

// Each state of a table is drawn, and nothing else is; an order's steps are those of its code.
func TestStatesAreDrawn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	steps := drawn(t)
	for object, c := range columns {
		var states []string
		for _, s := range steps {
			if s.object == object {
				states = append(states, s.from, s.to)
			}
		}
		slices.Sort(states)
		states = slices.DeleteFunc(slices.Compact(states), func(s string) bool { return s == "" })
		held := b.states(t, c.table+"_"+c.column+"_check")
		slices.Sort(held)
		if !slices.Equal(states, held) {
			t.Errorf("docs/states.md draws the states %v of %s, the table has %v", states, object, held)
		}
	}
	var legal []drawnStep
	for _, change := range orders.LegalChanges() {
		legal = append(legal, drawnStep{"Order", string(change.From), string(change.To)})
	}
	for _, s := range steps {
		if s.object == "Order" && s.to != "" && !slices.Contains(legal, s) {
			t.Errorf("no order goes from %q to %q", s.from, s.to)
		}
	}
	for _, s := range legal {
		if !slices.Contains(steps, s) {
			t.Errorf("docs/states.md does not draw %+v", s)
		}
	}
	order := b.place(t)
	if _, err := b.pool.Exec(t.Context(), "UPDATE orders SET status = 'refunded' WHERE id = $1", order.ID); err == nil {
		t.Error("an order goes from placed to refunded")
	}
}
