package torture_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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
			",\n    CONSTRAINT orders_one_per_key UNIQUE (customer_id, idempotency_key)\n", "\n"},
		{"internal/orders/internal/ordersdb/place.sql.go", "ON CONFLICT ON CONSTRAINT orders_one_per_key DO NOTHING\n",
			""},
	}, []string{"I1"}, ""},
	{"memory written before the commit", []edit{
		{"internal/orders/place.go", "	db := ordersdb.New(tx)\n	skus := map[string]int64{}\n",
			"	for _, d := range drafts {\n		early.Store(scope{d.order.CustomerID, d.key}, " +
				"placedAnswer(d.order.ID, d.body))\n	}\n" +
				"	db := ordersdb.New(tx)\n	skus := map[string]int64{}\n"},
		{"internal/orders/place.go", "			return s.placing.Do(ctx, ",
			"			if answer, ok := early.Load(scope{c.CustomerID, c.Key}); ok {\n				return " +
				"answer.(dedup.Answer), nil\n			}\n" +
				"			return s.placing.Do(ctx, "},
		{"internal/orders/place.go", "func placedAnswer(", "var early sync.Map\n\nfunc placedAnswer("},
		{"internal/orders/place.go", "	\"strings\"\n", "	\"strings\"\n	\"sync\"\n"},
	}, []string{"I2", "I3"}, ""},
	{"the COMMIT's lost answer taken for a yes", []edit{
		{"internal/pg/tx.go", "	return fmt.Errorf(\"%w: %w\", ErrCommitUnknown, err)\n", "	return nil\n"},
	}, []string{"I2", "I5"}, ""}, // a charge that does not stand is captured all the same
	{"another meaning replayed", []edit{
		{"internal/dedup/unique.go", "	case !bytes.Equal(", "	case len(row.Fingerprint) == 0 && !bytes.Equal("},
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
	}, []string{"I2"}, ""},
	{"an owed refund forgotten after a refusal", []edit{
		{"internal/payments/refund.go", "		p.DueIn = returnPause(charge.ReturnTries)\n", ""},
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
		{"internal/payments/charge.go", "	rows := pg.Later(tx, db.ListChargesOfOrders, orderIDs)\n",
			"	stale, err := s.db.ListChargesOfOrders(ctx, orderIDs)\n	if err != nil {\n" +
				"		return err\n	}\n	rows := &stale\n"},
	}, []string{"refusal"}, ""},
	{"receipt marked before it is sent", []edit{
		{"internal/notify/notify.go", "	crash.At(crash.ReceiptClaimed)\n",
			"	if err := s.record(ctx, event.OrderID); err != nil {\n		return " +
				"err\n	}\n	crash.At(crash.ReceiptClaimed)\n"},
	}, []string{"I11"}, ""},
	{"receipts sent without a guard", []edit{
		{"internal/notify/internal/notifydb/receipts.sql.go",
			"    WHERE receipts.sent_at IS NULL AND receipts.lease_until < now()\n", ""},
		{"internal/notify/notify.go", "	case errors.Is(err, dedup.ErrDone):\n",
			"	case errors.Is(err, dedup.ErrDone) && false:\n"},
	}, []string{"I11"}, ""},
	{"relay that marks before it publishes", []edit{
		{"internal/outbox/relay.go", "		crash.At(crash.RelayClaimed)\n",
			"		for _, row := range rows {\n			if err := outboxdb.New(r.pool).MarkSent(ctx, " +
				"outboxdb.MarkSentParams{Ids: []uuid.UUID{row.ID}, Seqs: []int64{1}}); err != nil " +
				"{\n				return nil, err\n			}\n		}\n		crash.At(crash.RelayClaimed)\n"},
	}, []string{"healing", "I10"}, ""},
	{"relay with a cursor over ids", []edit{
		{"internal/outbox/internal/outboxdb/outbox.sql.go",
			"    SELECT o.id FROM outbox o WHERE o.sent_at IS NULL AND o.claimed_until < now()\n",
			"    SELECT o.id FROM outbox o WHERE o.sent_at IS NULL AND o.claimed_until < now()\n      AND o.id > " +
				"coalesce((SELECT s.id FROM outbox s WHERE s.sent_at IS NOT NULL ORDER BY s.id DESC LIMIT 1), " +
				"'00000000-0000-0000-0000-000000000000')\n"},
	}, []string{"healing", "I10"}, ""},
	{"everybody's orders shown", []edit{
		{"internal/api/orders.go", "order.CustomerID != customer.ID && !customer.Admin",
			"order.CustomerID == uuid.Nil && !customer.Admin"},
	}, []string{"I14"}, ""},
}

// TestPlantedBugsAreFound builds the shop with each bug and tortures it. It takes two minutes a
// bug: run it by make torture-bugs. A name in SHOP_TORTURE_BUGS picks one.
func TestPlantedBugsAreFound(t *testing.T) { //nolint:paralleltest // one shop at a time has the machine to itself
	wanted := os.Getenv("SHOP_TORTURE_BUGS")
	if wanted == "" || testing.Short() {
		t.Skip("run it by make torture-bugs: it takes two minutes for each bug")
	}
	for _, bug := range bugs { //nolint:paralleltest // see above
		if wanted != "all" && wanted != bug.name {
			continue
		}
		t.Run(bug.name, func(t *testing.T) {
			if bug.test != "" {
				expectRed(t, bug.edits, bug.test)
				return
			}
			program := build(t, bug.edits)
			report := tortured(t, program)
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

// build makes a shop command with the edits, and leaves the sources alone.
func build(t *testing.T, edits []edit) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "shop")
	if output, err := goCommand(t, edits, "build", "-o", program, "./cmd/shop").CombinedOutput(); err != nil {
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

// tortured runs the command until it has found something, for two minutes at most.
func tortured(t *testing.T, program string) torture.Report {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, "torture", "--seed", "7", "--duration", "35s", "--json")
	var out, progress bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &progress
	begin := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("torture ended with %v, want exit code 1\n%s", err, progress.String())
	}
	t.Logf("it took %s", time.Since(begin).Round(time.Second))
	var report torture.Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("the report is no JSON: %v\n%s", err, progress.String())
	}
	if err := os.RemoveAll(report.Logs); err != nil {
		t.Error(err)
	}
	return report
}
