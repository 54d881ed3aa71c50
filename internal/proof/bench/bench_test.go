package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/onceshop/onceshop/internal/check"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// left are the schemas of the bench that are still there.
func left(t *testing.T, db *pgxpool.Pool) (n int) {
	t.Helper()
	if err := db.QueryRow(t.Context(),
		"SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'bench%'").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A short run has every row, verifies what it did, and leaves nothing. Its figures say nothing.
func TestRun(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	db := shoptest.Pool(t, shoptest.DatabaseURL(t))
	steps := 0
	broker := startBroker(t)
	report, err := Run(t.Context(),
		Config{DB: db, Broker: broker, Provider: providers(t), Duration: time.Second,
			Progress: func(string, int, int) { steps++ }})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"place uniform, service": 5, "place hot, service": 3, "place uniform, HTTP": 5,
		"place hot, HTTP": 3,
		"replay, service": 3, "replay, HTTP, of a constant": 3, "checkout, HTTP": 3, "batches of 256, unguarded": 1,
		"relay in batches": 1}
	if len(report.Notes) == 0 {
		want["place uniform, of pgbench"] = 1
	}
	var table bytes.Buffer
	report.Write(&table)
	for _, row := range report.Rows {
		want[row.Scenario]--
		if row.Naive.PerSecond <= 0 || row.Ours.PerSecond <= 0 || row.Ratio <= 0 {
			t.Errorf("not measured: %+v", row)
		}
		timed := row.Callers == 1 || row.Callers > maxCallers
		if is := row.Naive.MedianMicroseconds > 0 && row.Ours.P99Microseconds >= row.Ours.MedianMicroseconds &&
			row.Ours.MedianMicroseconds > 0; is != timed && !strings.Contains(row.Scenario, "batches") {
			t.Errorf("latency with %d callers: %+v", row.Callers, row)
		}
		if !strings.Contains(table.String(), row.Scenario+" ") {
			t.Errorf("%q is not in\n%s", row.Scenario, table.String())
		}
	}
	for scenario, missing := range want {
		if missing != 0 {
			t.Errorf("%s: %d rows are missing", scenario, missing)
		}
	}
	if f := report.Flash; f.Sold != f.Stock || f.Sold == 0 || f.Twins == 0 || f.Nodes != 2 ||
		f.Sold+f.Replayed+f.Refused != f.Attempts {
		t.Errorf("%+v", f)
	}
	document, err := json.Marshal(report)
	if err != nil || !bytes.Contains(document, []byte(`"per_second"`)) || !bytes.Contains(document, []byte(`"ratio"`)) {
		t.Errorf("%v: %s", err, document)
	}
	if n := left(t, db); n > 0 || steps < len(want) {
		t.Errorf("%d schemas left, %d steps told", n, steps)
	}
}

func TestCanceledRunLeavesNothing(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	db := shoptest.Pool(t, shoptest.DatabaseURL(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := Run(ctx, Config{DB: db, Provider: providers(t), Duration: 3 * time.Second,
		Progress: func(_ string, step, _ int) {
			if step == 1 {
				time.AfterFunc(20*time.Millisecond, cancel) // in the midst of a round
			}
		}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if n := left(t, db); n > 0 {
		t.Errorf("%d schemas left", n)
	}
}

// What is somebody else's is not touched, and what a killed run left is no hindrance.
func TestSchemasThatAreThere(t *testing.T) {
	t.Parallel()
	db := shoptest.Pool(t, shoptest.DatabaseURL(t))
	exec := func(sql string) {
		t.Helper()
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("CREATE SCHEMA bench_naive; COMMENT ON SCHEMA bench_naive IS '" + mark +
		"'; CREATE TABLE bench_naive.orders ()")
	first, err := openSchemas(t.Context(), db, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openSchemas(t.Context(), db, 1); err == nil || !strings.Contains(err.Error(), "another shop bench") {
		t.Errorf("a second run at once: %v", err)
	}
	if err := first.drop(t.Context()); err != nil || left(t, db) != 0 {
		t.Errorf("%d schemas left, %v", left(t, db), err)
	}
	exec("CREATE SCHEMA bench")
	if _, err := openSchemas(t.Context(), db, 1); err == nil || !strings.Contains(err.Error(), `"bench"`) {
		t.Errorf("with another's schema: %v", err)
	}
	if n := left(t, db); n != 1 {
		t.Errorf("%d schemas", n)
	}
}

func TestVerifyFinds(t *testing.T) {
	t.Parallel()
	before := page{entry: entry{Orders: 10, Units: 20, Paid: 5}, Available: 100, Scarcest: 7, Moved: 20, Told: 10}
	answered := entry{Orders: 3, Units: 6, Paid: 1}
	right := page{entry: entry{Orders: 13, Units: 26, Paid: 6}, Available: 94, Scarcest: 0, Moved: 26, Told: 13}
	if err := verify(before, right, answered); err != nil {
		t.Error(err)
	}
	for name, plant := range map[string]func(*page){
		"an oversold product":         func(p *page) { p.Scarcest = -1 },
		"stock that was taken twice":  func(p *page) { p.Available -= 2 },
		"stock that was not taken":    func(p *page) { p.Available += 2 },
		"an order nobody was told of": func(p *page) { p.Orders++ },
		"an order that is lost":       func(p *page) { p.Orders-- },
		"a payment too many":          func(p *page) { p.Paid++ },
		"a movement that is missing":  func(p *page) { p.Moved-- },
		"a line too many":             func(p *page) { p.Units++ },
		"an event too many":           func(p *page) { p.Told++ },
	} {
		wrong := right
		plant(&wrong)
		if verify(before, wrong, answered) == nil {
			t.Errorf("%s is not found", name)
		}
	}
}

func TestJudgeFinds(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	order := func(id string) []byte { return fmt.Appendf(nil, `{"id":%q,"status":"placed"}`, id) }
	// Two in stock: a asks, its twin too, then b; c comes too late.
	right := func() ([]heard, map[string]storedOrder) {
		return []heard{
				{key: "a", status: http.StatusCreated, body: order("1"), began: begin, ended: begin.Add(2)},
				{key: "a", status: http.StatusCreated, replayed: true, body: order("1"), began: begin.Add(1),
					ended: begin.Add(2)},
				{key: "b", status: http.StatusCreated, body: order("2"), began: begin.Add(3), ended: begin.Add(4)},
				{key: "c", status: http.StatusConflict, body: []byte(`{"code":"out_of_stock"}`), began: begin.Add(3),
					ended: begin.Add(5)},
			}, map[string]storedOrder{
				"a": {"1", order("1")},
				"b": {"2", order("2")},
			}
	}
	judged := func(plant func([]heard, map[string]storedOrder)) error {
		answers, stored := right()
		plant(answers, stored)
		return (&Flash{Stock: 2}).judge(answers, stored)
	}
	if err := judged(func([]heard, map[string]storedOrder) {}); err != nil {
		t.Error(err)
	}
	for name, plant := range map[string]func([]heard, map[string]storedOrder){
		"an oversold product": func(_ []heard, s map[string]storedOrder) {
			s["d"] = storedOrder{"3", order("3")}
		},
		"an order that does not stand": func(_ []heard, s map[string]storedOrder) { delete(s, "b") },
		"another's order":              func(a []heard, _ map[string]storedOrder) { a[2].body = order("1") },
		"other bytes": func(a []heard, _ map[string]storedOrder) {
			a[1].body = append(a[1].body, ' ')
		},
		"two first answers": func(a []heard, _ map[string]storedOrder) { a[1].replayed = false },
		"no first answer":   func(a []heard, _ map[string]storedOrder) { a[0].replayed = true },
		"a refusal of what stands": func(a []heard, _ map[string]storedOrder) {
			a[1].status, a[1].body = http.StatusConflict, []byte(`{"code":"out_of_stock"}`)
		},
		"a refusal while there was stock": func(a []heard, _ map[string]storedOrder) { a[3].ended = begin.Add(1) },
		"an error": func(a []heard, _ map[string]storedOrder) {
			a[3].status = http.StatusInternalServerError
		},
		"another conflict": func(a []heard, _ map[string]storedOrder) {
			a[3].body = []byte(`{"code":"request_in_progress"}`)
		},
	} {
		if judged(plant) == nil {
			t.Errorf("%s is not found", name)
		}
	}
}

// A run on few orders has every row and holds every invariant. What it says of growth is nothing.
func TestRunGrowth(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	db := shoptest.Pool(t, shoptest.DatabaseURL(t))
	const grown = MinGrown
	report, err := RunGrowth(t.Context(), Config{DB: db, Broker: startBroker(t), Duration: 2 * time.Second}, grown)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"relay in batches": 1, "place beside a mend": 1, "replay of old keys, service": 2,
		"place uniform, service": 2, "place hot, service": 1, "place beside deletions": 1,
		"list a buyer's orders": 1, "look for work that is due": 1, "check the last minute": 1}
	var table bytes.Buffer
	report.Write(&table)
	for _, row := range report.Rows {
		want[row.Scenario]--
		if row.Empty.PerSecond <= 0 || row.Grown.PerSecond <= 0 || row.Ratio <= 0 {
			t.Errorf("not measured: %+v", row)
		}
		if !strings.Contains(table.String(), row.Scenario+" ") {
			t.Errorf("%q is not in\n%s", row.Scenario, table.String())
		}
	}
	for scenario, missing := range want {
		if missing != 0 {
			t.Errorf("%s: %d rows are missing", scenario, missing)
		}
	}
	if deletedEvents(t) == 0 {
		t.Error("orders were placed beside deletions, and no event was deleted")
	}
	if n := left(t, db); n > 0 || report.Orders != grown {
		t.Errorf("%d schemas left, %d orders", n, report.Orders)
	}
}

// deletedEvents returns how many old events this process has deleted.
func deletedEvents(t *testing.T) (sum float64) {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "onceshop_rows_deleted_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			if metric.GetLabel()[0].GetValue() == "outbox" {
				sum += metric.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// The written orders are what the shop would have left: with its indexes and constraints on again,
// and nothing that a check finds.
func TestGrownTablesKeepTheirGuards(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	tables, err := openGrowth(t.Context(), shoptest.Pool(t, shoptest.DatabaseURL(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := tables.drop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	b := &bench{schemas: &schemas{ours: tables.grown}}
	if err := errors.Join(b.addBuyers(t.Context()),
		b.grow(t.Context(), func(string, int, int) {}, MinGrown)); err != nil {
		t.Fatal(err)
	}
	guarded := func(pool *pgxpool.Pool) (all []string) {
		t.Helper()
		rows, err := pool.Query(t.Context(), `SELECT conname || pg_get_constraintdef(oid) || convalidated
			FROM pg_constraint WHERE connamespace = current_schema()::regnamespace
			UNION ALL SELECT indexrelid::regclass || replace(pg_get_indexdef(indexrelid), current_schema(), '')
				FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
			WHERE relnamespace = current_schema()::regnamespace
			UNION ALL SELECT relname || reloptions::text FROM pg_class
				WHERE relnamespace = current_schema()::regnamespace AND reloptions IS NOT NULL
			ORDER BY 1`)
		if err == nil {
			all, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if fresh, grown := guarded(tables.ours), guarded(tables.grown); len(fresh) == 0 || !slices.Equal(fresh, grown) {
		t.Errorf("guards of fresh tables:\n%s\nof grown ones:\n%s", strings.Join(fresh, "\n"),
			strings.Join(grown, "\n"))
	}
	if err := b.hold(t.Context(), check.Sources{DB: b.ours}); err != nil {
		t.Error(err)
	}
}

func startBroker(t *testing.T) *nats.Conn {
	t.Helper()
	server := shoptest.NATS(t, t.TempDir())
	broker, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	return broker
}

// providers starts the two payment providers of a run. They stop when the test ends.
func providers(t *testing.T) func() (url string, stop func(), err error) {
	t.Helper()
	urls := []string{
		shoptest.Provider(t, shoptest.ProviderOptions{}), shoptest.Provider(t, shoptest.ProviderOptions{}),
	}
	return func() (url string, stop func(), err error) {
		url, urls = urls[0], urls[1:]
		return url, func() {}, nil
	}
}
