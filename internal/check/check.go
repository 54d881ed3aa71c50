// Package check checks the shop's invariants. Each one is an SQL statement that returns the rows
// that break it. Some compare the database with two outside witnesses: the payment provider and the
// mailbox.
//
// All statements are in invariants.go. Tests, the lab and operators (`shop check`) run the same
// ones. They are plain SQL because they read the tables of every domain, and sqlc's packages are
// private to their domains. They only read.
package check

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/pg"
)

// Sources are the database and the witnesses to compare. ProviderURL and MailboxURL are base URLs
// such as "http://127.0.0.1:8090". An invariant whose witness has no URL is not checked.
type Sources struct {
	DB                      *pgxpool.Pool
	ProviderURL, MailboxURL string
	// Since limits the check to orders with a change in that time, and is 0 for all. The work is
	// then bounded by what happened in that time, not by the size of the tables.
	Since time.Duration
}

// begin is when the window begins, or zero.
func (s Sources) begin() (since time.Time) {
	if s.Since != 0 {
		since = time.Now().Add(-s.Since)
	}
	return since
}

// Report is the outcome of every invariant, in the design's order.
type Report []Result

// Result is the outcome of one invariant against one source.
type Result struct {
	// Invariant is its number in the design, such as "I5".
	Invariant string
	Source    Source
	// Says is the invariant in a few words.
	Says string
	// Rows is the number of rows or messages that were checked.
	Rows int64
	// Violations break the invariant. Warnings do not, but an operator should look at them.
	Violations, Warnings Findings
	// NotChecked is the reason why there is no outcome, or empty.
	NotChecked string
}

// Findings are the rows that a statement found: how many, and the first of them.
type Findings struct {
	Count int64
	First []Finding
}

// Finding is a row that a statement found: its id and what is wrong with it.
type Finding struct{ ID, Says string }

// mostFindings is the number of rows that Findings.First holds at most.
const mostFindings = 10

// healing is how long something may be in progress before it counts as stuck.
const healing = time.Minute

// statementTimeout is long enough to read the tables of a shop that has run for years.
const statementTimeout = 10 * time.Minute

// Violated returns the results with violations.
func (r Report) Violated() []Result {
	var violated []Result
	for _, result := range r {
		if result.Violations.Count > 0 {
			violated = append(violated, result)
		}
	}
	return violated
}

// Run checks every invariant. The shop may be running. Run asks the witnesses first, and then reads
// everything from one snapshot of the database. Everything that a witness saw has a row by then,
// because the shop writes a row before it calls the outside. Everything that was settled before Run
// asked, the witnesses must have seen. Run ignores what happened in between. If a witness does not
// answer, its invariants are not checked, and Run returns its error with the report on the others.
func Run(ctx context.Context, sources Sources) (Report, error) {
	args := legalChanges()
	since := sources.begin()
	args["since"], args["since_id"] = since, pg.FirstID(since.Add(-clockSkew))
	seen, missing, askErr := ask(ctx, sources, since, args)
	if missing == nil {
		return nil, askErr
	}
	tx, err := sources.DB.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // nothing was written
	report, err := readTx(ctx, tx, seen, since, args, missing)
	if err != nil {
		return nil, err
	}
	return report, askErr
}

// readTx checks every invariant whose source is available.
func readTx(ctx context.Context, tx pgx.Tx, seen *seen, since time.Time, args pgx.NamedArgs,
	missing map[Source]string) (Report, error) {
	windowed, tables := !since.IsZero(), ""
	if err := prepare(ctx, tx, windowed); err != nil {
		return nil, err
	}
	if windowed {
		tables = window
		if err := openWindow(ctx, tx, args); err != nil {
			return nil, err
		}
		if err := seen.only(ctx, tx, since, args); err != nil {
			return nil, err
		}
	}
	seen.columns(args)
	var report Report
	for _, i := range invariants {
		result := Result{Invariant: i.name, Source: i.source, Says: i.says, NotChecked: missing[i.source]}
		if windowed && i.whole {
			result.NotChecked = "it is about all orders"
		}
		if result.NotChecked == "" {
			if err := i.check(ctx, tx, tables, args, &result); err != nil {
				return nil, err
			}
		}
		report = append(report, result)
	}
	return report, nil
}

// prepare tunes the transaction for a few large statements. They join whole tables or windows of
// them on equal columns, where a nested loop would run for hours. The rows of a window were written
// of late and are in memory: to look them up by an index costs less than to read whole tables.
func prepare(ctx context.Context, tx pgx.Tx, windowed bool) error {
	pageCost := "4"
	if windowed {
		pageCost = "1.1"
	}
	_, err := tx.Exec(ctx, `
		SELECT set_config('statement_timeout', $1, true),
			set_config('work_mem', '64MB', true),
			set_config('plan_cache_mode', 'force_custom_plan', true),
			set_config('jit', 'off', true),
			set_config('random_page_cost', $2, true),
			set_config('enable_nestloop', 'off', true),
			set_config('enable_seqscan', 'on', true),
			set_config('enable_hashjoin', 'on', true),
			set_config('enable_mergejoin', 'on', true)`,
		fmt.Sprint(statementTimeout.Milliseconds()), pageCost)
	if err != nil {
		return fmt.Errorf("prepare the snapshot: %w", err)
	}
	return nil
}

// ask returns what the witnesses saw since then, and puts the time at which they were asked into
// args. It returns the sources that are missing, with the reason, or nil if the database does not
// answer.
func ask(ctx context.Context, sources Sources, since time.Time,
	args pgx.NamedArgs) (_ *seen, missing map[Source]string, err error) {
	var asked time.Time
	if err := sources.DB.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&asked); err != nil {
		return nil, nil, fmt.Errorf("ask the database for its time: %w", err)
	}
	all := &seen{}
	args["asked"] = asked
	missing = map[Source]string{}
	var failures []error
	for _, w := range []struct {
		source       Source
		url, setting string
		read         func(ctx context.Context, url string, since time.Time) error
	}{
		{Provider, sources.ProviderURL, "PSP_URL", all.readProvider},
		{Mailbox, sources.MailboxURL, "SHOP_MAILBOX_ADDR", all.readMailbox},
	} {
		if w.url == "" {
			missing[w.source] = w.setting + " is missing"
			continue
		}
		if err := w.read(ctx, w.url, since); err != nil {
			missing[w.source] = "the " + string(w.source) + " does not answer"
			failures = append(failures, fmt.Errorf("ask the %s of %s: %w", w.source, w.setting, err))
		}
	}
	return all, missing, errors.Join(failures...)
}

// legalChanges returns the arguments legal_event, legal_from, legal_to and healing.
func legalChanges() pgx.NamedArgs {
	var event, from, to []string
	for _, change := range orders.LegalChanges() {
		event, from, to = append(event, change.Event), append(from, string(change.From)), append(to, string(change.To))
	}
	return pgx.NamedArgs{"legal_event": event, "legal_from": from, "legal_to": to, "healing": healing,
		"return_tries": payments.MaxReturnTries}
}

// check runs the invariant's statements on the tables, or on the WITH clause that stands for them,
// and fills in the result.
func (i invariant) check(ctx context.Context, tx pgx.Tx, tables string, args pgx.NamedArgs,
	result *Result) (err error) {
	if err = tx.QueryRow(ctx, tables+"SELECT "+i.rows, args).Scan(&result.Rows); err == nil {
		result.Violations, err = find(ctx, tx, tables, i.violations, args)
	}
	if err == nil && i.warnings != "" {
		result.Warnings, err = find(ctx, tx, tables, i.warnings, args)
	}
	var answer *pgconn.PgError
	if errors.As(err, &answer) && (answer.Code == "42P01" || answer.Code == "42703") {
		err = fmt.Errorf("the schema is not this program's, try `shop migrate up`: %w", err)
	}
	if err != nil {
		return fmt.Errorf("check %s: %w", i.name, err)
	}
	return nil
}

// find runs a statement that returns (id, says).
func find(ctx context.Context, tx pgx.Tx, tables, statement string, args pgx.NamedArgs) (Findings, error) {
	var found Findings
	query := tables + fmt.Sprintf(`
		SELECT count(*) OVER (), coalesce(id, ''), coalesce(says, '')
		FROM (%s) AS found (id, says) ORDER BY id, says LIMIT %d`, statement, mostFindings)
	rows, err := tx.Query(ctx, query, args)
	if err != nil {
		return found, err
	}
	found.First, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (f Finding, err error) {
		return f, row.Scan(&found.Count, &f.ID, &f.Says)
	})
	return found, err
}
