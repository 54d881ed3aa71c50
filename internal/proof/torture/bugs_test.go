package torture_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/proof/torture"
)

// edit replaces a text that a file holds exactly once.
type edit struct{ file, old, new string }

// bugs are what torture must find: each is a mistake that people make, planted into a copy of the
// sources. An edit whose text is not there any more fails the test: then plant the bug where the
// code is now.
var bugs = []struct {
	name  string
	edits []edit
	// found are the invariants of which one at least must be reported.
	found []string
	// test is the test of internal/payments that finds the bug instead of a run, which seldom meets
	// a refusal while an earlier request is on its way.
	test string
}{
	{"no unique key", []edit{
		{"db/migrations/00002_orders.sql",
			"    CONSTRAINT orders_one_per_key UNIQUE (customer_id, idempotency_key),\n", ""},
		{"internal/orders/internal/ordersdb/place.sql.go", "ON CONFLICT ON CONSTRAINT orders_one_per_key DO NOTHING\n",
			""},
	}, []string{"I1"}, ""},
	{"memory written before the commit", []edit{
		{"internal/orders/place.go", "	db := ordersdb.New(tx)\n	skus := map[string]int64{}\n",
			"	for _, d := range drafts {\n		early.Store(scope{d.order.CustomerID, d.key}, " +
				"placedAnswer(d.order.ID, d.body))\n	}\n" +
				"	db := ordersdb.New(tx)\n	skus := map[string]int64{}\n"},
		{"internal/orders/place.go", "{ return s.placing.Do(ctx, fresh) },\n",
			"{\n			if answer, ok := early.Load(scope{c.CustomerID, c.Key}); ok {\n				return " +
				"answer.(dedup.Answer), nil\n			}\n			return s.placing.Do(ctx, fresh)\n		},\n"},
		{"internal/orders/place.go", "func placedAnswer(", "var early sync.Map\n\nfunc placedAnswer("},
		{"internal/orders/place.go", "	\"strings\"\n", "	\"strings\"\n	\"sync\"\n"},
	}, []string{"I2", "I3"}, ""},
	{"the COMMIT's lost answer taken for a yes", []edit{
		{"internal/pg/tx.go", "	return fmt.Errorf(\"%w: %w\", ErrCommitUnknown, err)\n", "	return nil\n"},
	}, []string{"I2", "I5"}, ""}, // a charge that does not stand is captured all the same
	{"another meaning replayed", []edit{
		{"internal/dedup/unique.go", "	case !r.Fingerprint.matches(",
			"	case len(row.Fingerprint) == 0 && !r.Fingerprint.matches("},
	}, []string{"I3", "I4"}, ""},
	{"fresh provider key on retry", []edit{
		{"internal/payments/charge.go", `"charge_" + charge.ID.String()`,
			`"charge_" + charge.ID.String() + fmt.Sprint(charge.Attempt)`},
		{"internal/payments/reconcile.go", "	case found.Status != CaptureNone &&",
			"	case found.Status == \"?\" &&"},
		{"internal/payments/reconcile.go", "	case found.Status == CaptureNone && waits &&", "	case waits &&"},
	}, []string{"I5"}, ""},
	{"timeout stored as declined", []edit{
		{"internal/payments/charge.go", "charge, err = s.markUnknown(ctx, charge, capture.ID, firstLook)",
			`charge, err = s.settle(ctx, charge, Capture{Status: CaptureDeclined, DeclineCode: "timeout"})`},
	}, []string{"I5", "I6"}, ""},
	{"a key freed after a failed refund", []edit{
		{"internal/payments/internal/paymentsdb/refunds.sql.go", "UPDATE refunds SET status = $6::text,",
			"UPDATE refunds SET idempotency_key = CASE WHEN $6::text <> 'failed' THEN idempotency_key END,\n" +
				"    fingerprint = CASE WHEN $6::text <> 'failed' THEN fingerprint END, status = $6::text,"},
	}, []string{"I2", "I3"}, ""}, // the next retry takes the key, also with another meaning
	{"an owed refund forgotten after a refusal", []edit{
		{"internal/payments/settle_refund.go", "		p.DueIn = returnPause(charge.ReturnTries)\n", ""},
	}, []string{"I6"}, ""},
	{"a charge's refusal believed on a retry", []edit{
		{"internal/payments/reconcile.go", "	case errors.Is(err, ErrRefused):\n" +
			"		return s.giveUp(ctx, charge)\n",
			"	case errors.Is(err, ErrRefused):\n		return s.settled(ctx, charge, " +
				"Capture{Status: CaptureDeclined, DeclineCode: declinedAsRefused})\n"},
	}, nil, "TestRefusedRetryOfACharge"},
	{"a refund's refusal believed on a retry", []edit{
		{"internal/payments/refund.go", "	case refused && refund.Attempt == 1:\n", "	case refused:\n"},
	}, nil, "TestRefusedRetryOfARefund"},
	{"a refusal decided from a stale read", []edit{
		// It saves a round trip, but reads the charges before it waits for the lock of their order.
		{"internal/payments/charge.go", "	locked := s.orders.LockTx(tx, params.OrderIds...)\n",
			"	rows := pg.Later(tx, paymentsdb.New(tx).ListChargesOfOrders, params.OrderIds)\n" +
				"	locked := s.orders.LockTx(tx, params.OrderIds...)\n"},
		{"internal/payments/charge.go", "s.refuseTx(ctx, tx, locked, ", "s.refuseTx(ctx, tx, rows, locked, "},
		{"internal/payments/charge.go", "refuseTx(ctx context.Context, tx *pg.Pipe, locked *orders.Locked, ",
			"refuseTx(ctx context.Context, tx *pg.Pipe, rows *[]paymentsdb.Charge, locked *orders.Locked, "},
		{"internal/payments/charge.go", "	rows := pg.Later(tx, db.ListChargesOfOrders, orderIDs)\n", ""},
	}, []string{"refusal", "internal"}, ""},
	{"receipt marked before it is sent", []edit{
		{"internal/notify/notify.go", "	crash.At(crash.ReceiptClaimed)\n",
			"	if !s.record(ctx, r.OrderID) {\n		return false\n	}\n	crash.At(crash.ReceiptClaimed)\n"},
	}, []string{"I11"}, ""},
	{"receipts sent without a guard", []edit{
		{"internal/notify/internal/notifydb/receipts.sql.go",
			"    WHERE receipts.sent_at IS NULL AND receipts.dead_at IS NULL AND " +
				"receipts.due_at <= excluded.created_at\n" +
				"        AND receipts.lease_until < excluded.created_at\n", ""},
		{"internal/notify/notify.go", "	case errors.Is(err, dedup.ErrDone):\n",
			"	case errors.Is(err, dedup.ErrDone) && false:\n"},
	}, []string{"I11"}, ""},
	{"relay that marks before it publishes", []edit{
		{"internal/outbox/relay.go", "		crash.At(crash.RelayClaimed)\n",
			"		for _, row := range rows {\n			if _, err := outboxdb.New(r.pool).MarkSent(ctx, " +
				"outboxdb.MarkSentParams{Claim: row.ClaimedUntil, Ids: []uuid.UUID{row.ID}, " +
				"Seqs: []int64{1}}); err != nil {\n				return batch{}, err\n			}\n		}\n" +
				"		crash.At(crash.RelayClaimed)\n"},
	}, []string{"healing", "I10"}, ""},
	{"relay with a cursor over ids", []edit{
		{"internal/outbox/internal/outboxdb/outbox.sql.go",
			"    SELECT o.id FROM outbox o WHERE o.sent_at IS NULL AND o.failures = 0 AND o.claimed_until < now()\n",
			"    SELECT o.id FROM outbox o WHERE o.sent_at IS NULL AND o.failures = 0 AND o.claimed_until < now()\n" +
				"      AND o.id > coalesce((SELECT s.id FROM outbox s WHERE s.sent_at IS NOT NULL " +
				"ORDER BY s.id DESC LIMIT 1), '00000000-0000-0000-0000-000000000000')\n"},
	}, []string{"healing", "I10"}, ""},
	{"everybody's orders shown", []edit{
		{"internal/api/orders.go", "order.CustomerID != customer.ID && !customer.Admin",
			"order.CustomerID == uuid.Nil && !customer.Admin"},
	}, []string{"I14"}, ""},
}

// longer is how long the runs with some bugs take, because their situation is rare. Refunds seldom
// fail, and the next retry takes most of the keys that are freed.
var longer = map[string]time.Duration{"a key freed after a failed refund": time.Minute}

// TestPlantedBugsAreFound builds the shop with each bug and tortures it, which takes one to two
// minutes a bug: run it by make torture-bugs. A name in SHOP_TORTURE_BUGS picks one. While one shop
// runs, the next is built.
func TestPlantedBugsAreFound(t *testing.T) {
	t.Parallel()
	wanted := os.Getenv("SHOP_TORTURE_BUGS")
	if wanted == "" || testing.Short() {
		t.Skip("run it by make torture-bugs: it takes one to two minutes for each bug")
	}
	var building, running sync.Mutex
	for _, bug := range bugs {
		if wanted != "all" && wanted != bug.name {
			continue
		}
		t.Run(bug.name, func(t *testing.T) {
			t.Parallel()
			if bug.test != "" {
				building.Lock()
				defer building.Unlock()
				expectRed(t, bug.edits, bug.test)
				return
			}
			program := build(t, &building, bug.edits)
			report := tortured(t, &running, program, cmp.Or(longer[bug.name], torture.BugDuration))
			for _, v := range report.Violations {
				if slices.Contains(bug.found, v.Invariant) {
					t.Logf("found: %s %s", v.Invariant, v.Says)
					return
				}
			}
			t.Errorf("none of %v was found, but %d other violations", bug.found, len(report.Violations))
			for _, v := range report.Violations {
				t.Logf("%s %s", v.Invariant, v.Says)
			}
		})
	}
}

// TestPlantedBugsFit keeps the edits up with the code, without building anything.
func TestPlantedBugsFit(t *testing.T) {
	t.Parallel()
	for _, bug := range bugs {
		edited(t, bug.edits)
	}
}

const root = "../../.."

// edited are the files with the edits in them, by their paths.
func edited(t *testing.T, edits []edit) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, e := range edits {
		path, err := filepath.Abs(filepath.Join(root, e.file))
		if err != nil {
			t.Fatal(err)
		}
		text, ok := files[path]
		if !ok {
			source, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			text = string(source)
		}
		if strings.Count(text, e.old) != 1 {
			t.Errorf("%s holds %d times what a bug replaces: %q", e.file, strings.Count(text, e.old), e.old)
		}
		files[path] = strings.Replace(text, e.old, e.new, 1)
	}
	return files
}

// build makes a shop command with the edits, and leaves the sources alone. It takes one processor:
// another shop is running.
func build(t *testing.T, turn *sync.Mutex, edits []edit) (program string) {
	t.Helper()
	turn.Lock()
	defer turn.Unlock()
	program = filepath.Join(t.TempDir(), "shop")
	cmd := goCommand(t, edits, "build", "-p", "1", "-o", program, "./cmd/shop")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return program
}

// expectRed runs a test of internal/payments, which must fail with the edits.
func expectRed(t *testing.T, edits []edit, test string) {
	t.Helper()
	output, err := goCommand(t, edits, "test", "-run", "^"+test+"$", "./internal/payments").CombinedOutput()
	if err == nil || !bytes.Contains(output, []byte("--- FAIL: "+test)) {
		t.Errorf("%s ended with %v, want a failure\n%s", test, err, output)
	}
}

// goCommand is a go command that sees the sources with the edits.
func goCommand(t *testing.T, edits []edit, verb string, args ...string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for path, text := range edited(t, edits) {
		instead := filepath.Join(dir, strings.ReplaceAll(path, "/", "_"))
		if err := os.WriteFile(instead, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[path] = instead
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, list, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", append([]string{verb, "-overlay", file}, args...)...)
	cmd.Dir = root
	return cmd
}

// tortured runs the command, one at a time. See TestBugsMeetTheirFaults.
func tortured(t *testing.T, turn *sync.Mutex, program string, duration time.Duration) torture.Report {
	t.Helper()
	turn.Lock()
	defer turn.Unlock()
	cmd := exec.CommandContext(t.Context(), program, "torture", "--seed", strconv.Itoa(torture.BugSeed),
		"--duration", duration.String(), "--json")
	var out, progress bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &progress
	begin := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("torture ended with %v, want exit code 1\n%s", err, progress.String())
	}
	took := time.Since(begin).Round(time.Second)
	var report torture.Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("the report is no JSON: %v\n%s", err, progress.String())
	}
	t.Logf("%d operations, %d violations in %s", report.Operations, len(report.Violations), took)
	if err := os.RemoveAll(report.Logs); err != nil {
		t.Error(err)
	}
	return report
}
