package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/emersion/go-smtp"
	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/outbox"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// office is a real SMTP server that answers by recipient.
type office struct {
	mu       sync.Mutex
	sender   error // the answer to MAIL FROM
	tries    map[string]int
	accepted map[string]int
	// answer is the answer to a recipient, which can begin with "later", "unknown" or "policy".
	answers map[string]error
}

func openOffice(t *testing.T) (o *office, smtpURL string) {
	t.Helper()
	o = &office{tries: map[string]int{}, accepted: map[string]int{}, answers: map[string]error{
		"later":   &smtp.SMTPError{Code: 450, EnhancedCode: smtp.EnhancedCode{4, 2, 1}, Message: "later"},
		"unknown": &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no \x00 such user"},
		"policy":  &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "policy"},
	}}
	l := listen(t)
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		return &visit{office: o}, nil
	}))
	server.Domain = "localhost"
	server.ErrorLog = log.New(io.Discard, "", 0)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-ended })
	return o, "smtp://" + l.Addr().String()
}

// set changes the answer to MAIL FROM, and forgets those to recipients if it is nil.
func (o *office) set(sender error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sender = sender; sender == nil {
		clear(o.answers)
	}
}

func (o *office) count(of func(*office) map[string]int, prefix string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for to, times := range of(o) {
		if strings.HasPrefix(to, prefix) {
			n += times
		}
	}
	return n
}

func tried(o *office) map[string]int    { return o.tries }
func accepted(o *office) map[string]int { return o.accepted }

type visit struct {
	*office
	to string
}

func (v *visit) Reset()        {}
func (v *visit) Logout() error { return nil }

func (v *visit) Mail(string, *smtp.MailOptions) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.sender
}

func (v *visit) Rcpt(to string, _ *smtp.RcptOptions) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.to = to
	v.tries[to]++
	kind, _, _ := strings.Cut(to, "-")
	return v.answers[kind]
}

func (v *visit) Data(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.accepted[v.to]++
	return err
}

// paidBy returns the events of n paid orders whose addresses begin with the prefix.
func (s *shop) paidBy(t *testing.T, prefix string, n int) []outbox.Event {
	t.Helper()
	one := s.paid(t)
	rows, err := s.pool.Query(t.Context(), `INSERT INTO orders
		SELECT (jsonb_populate_record(one, jsonb_build_object('id', gen_random_uuid(),
			'idempotency_key', $2 || n, 'email', $2 || '-' || n || '@example.com'))).*
		FROM orders one, generate_series(1, $3::int) n WHERE one.id = $1 RETURNING id`, one.OrderID, prefix, n)
	if err != nil {
		t.Fatal(err)
	}
	events := make([]outbox.Event, 0, n)
	for rows.Next() {
		event := one
		if err := rows.Scan(&event.OrderID); err != nil {
			t.Fatal(err)
		}
		events = append(events, event)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return events
}

func (s *shop) count(t *testing.T, sql string, args ...any) (n int) {
	t.Helper()
	if err := s.pool.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// consume hands the events to the node as its consumer does, which has eight handlers.
func consume(t *testing.T, n node, events []outbox.Event) {
	t.Helper()
	queue := make(chan outbox.Event, len(events))
	for _, event := range events {
		queue <- event
	}
	close(queue)
	var handlers sync.WaitGroup
	for range 8 {
		handlers.Go(func() {
			for event := range queue {
				if err := n.HandlePaid(t.Context(), event); err != nil {
					t.Error(err)
				}
			}
		})
	}
	handlers.Wait()
}

// start runs the node's sweepers until stop is called, or the test ends.
func start(t *testing.T, n node) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// A thousand mails that are put off for ever: their events are acknowledged, other buyers get their
// receipts beside them, the pauses grow in the rows, and each ends as a dead letter.
func TestReceiptsPutOffForEver(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	s := newShop(t)
	o, smtpURL := openOffice(t)
	n := s.node(t, smtpURL, shoptest.Redis(t))
	const many = 1000
	consume(t, n, s.paidBy(t, "later", many))
	if rows := s.count(t, "SELECT count(*) FROM receipts WHERE failures = 1 AND sent_at IS NULL"); rows != many {
		t.Fatalf("%d receipts have failed once, want %d", rows, many)
	}
	if !n.circuit.closed() {
		t.Error("recipients that want it later are the server's trouble")
	}

	next := s.node(t, smtpURL, shoptest.Redis(t)) // the counts survive a restart
	s.due(t)
	stop := start(t, next)
	fresh := s.paidBy(t, "fresh", 20)
	consume(t, next, fresh[:10])
	for _, event := range fresh[10:] { // their handler dies
		s.exec(t, `INSERT INTO receipts (order_id, kind, attempt, lease_until) VALUES ($1, 'paid', 0, now())`,
			event.OrderID)
	}
	shoptest.Eventually(t, patience, "the others get their receipts", func() bool {
		return o.count(accepted, "fresh") == 20
	})
	const least = "SELECT count(*) FROM receipts WHERE failures = $1 AND due_at > now() + $2::interval"
	shoptest.Eventually(t, 3*patience, "each has failed twice, and waits longer", func() bool {
		return s.count(t, `SELECT count(*) FROM receipts
			WHERE failures >= 2 AND due_at > lease_until + interval '14 s'`) == many
	})
	stop() // on a slow machine, the first are due again by now
	failures := s.count(t, "SELECT sum(failures) FROM receipts")
	if tries := o.count(tried, "later"); tries != failures {
		t.Errorf("%d tries, %d of them in the rows", tries, failures)
	}
	s.exec(t, "UPDATE receipts SET failures = $1 WHERE sent_at IS NULL", maxFailures-2)
	s.due(t)
	start(t, next)
	shoptest.Eventually(t, 3*patience, "each has failed for the last time but one", func() bool {
		return s.count(t, least, maxFailures-1, maxPause/2) == many
	})
	s.due(t)
	shoptest.Eventually(t, 3*patience, "each is a dead letter", func() bool {
		return s.count(t, `SELECT count(*) FROM receipts
			WHERE dead_at IS NOT NULL AND last_error LIKE '%450%'`) == many
	})

	letters := NewLetters(s.pool)
	if list, more, err := letters.List(t.Context(), nil, 50); err != nil || len(list) != 50 || !more {
		t.Errorf("%d letters, more: %v, %v", len(list), more, err)
	}
	o.set(nil)
	if n, err := letters.RetryAll(t.Context()); err != nil || n != many {
		t.Errorf("retried %d, %v, want %d", n, err, many)
	}
	shoptest.Eventually(t, 3*patience, "everybody has a receipt", func() bool {
		return o.count(accepted, "later") == many
	})
}

// A mail server that refuses the shop is no recipient's fault: the circuit holds all receipts, none
// becomes a dead letter, few are tried, and all are sent when the server takes mail again.
func TestReceiptsWhenTheServerRefusesTheShop(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	for name, tc := range map[string]struct {
		prefix string
		sender error
		tries  int // at most, in the first round
	}{
		"at MAIL": {"fresh", &smtp.SMTPError{Code: 550, Message: "who are you?"}, 0},
		"at RCPT": {"policy", nil, suspicion + 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			o, smtpURL := openOffice(t)
			o.sender = tc.sender
			n := s.node(t, smtpURL, shoptest.Redis(t))
			const many = 200
			consume(t, n, s.paidBy(t, tc.prefix, many))
			if n.circuit.closed() {
				t.Error("the circuit is closed")
			}
			if tries := o.count(tried, ""); tries > tc.tries {
				t.Errorf("%d tries, want %d at most", tries, tc.tries)
			}
			for range 30 { // half an hour, a try a minute
				s.due(t)
				n.circuit.skip()
				for _, failed := range []bool{false, true} {
					if _, err := n.RunOnce(t.Context(), failed); err != nil {
						t.Fatal(err)
					}
				}
			}
			if dead := s.count(t, "SELECT count(*) FROM receipts WHERE dead_at IS NOT NULL"); dead != 0 {
				t.Errorf("%d dead letters", dead)
			}
			if counted := s.count(t, "SELECT count(*) FROM receipts WHERE failures > 0"); counted > tc.tries {
				t.Errorf("%d receipts have failures of their own, want %d at most", counted, tc.tries)
			}
			o.set(nil)
			s.due(t)
			n.circuit.skip()
			start(t, n)
			shoptest.Eventually(t, patience, "everybody has a receipt", func() bool {
				return o.count(accepted, tc.prefix) == many
			})
		})
	}
}

// One recipient whom a policy refuses does not hold up the others, and ends as a dead letter.
func TestReceiptThatAPolicyRefuses(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	o, smtpURL := openOffice(t)
	n := s.node(t, smtpURL, shoptest.Redis(t))
	event := s.paidBy(t, "policy", 1)[0]
	for i, fresh := range s.paidBy(t, "fresh", maxFailures) {
		if i == 0 {
			if err := n.HandlePaid(t.Context(), event); err != nil {
				t.Fatal(err)
			}
		}
		s.failed(t, event, i+1, i+1 == maxFailures)
		if err := n.HandlePaid(t.Context(), fresh); err != nil {
			t.Fatal(err)
		}
		s.recorded(t, fresh, true, 1)
		s.due(t)
		n.sweep(t)
	}
	if n := o.count(accepted, "fresh"); n != maxFailures {
		t.Errorf("%d of the others have a receipt, want %d", n, maxFailures)
	}
}

// A refused recipient is a dead letter at once, which an operator sees and retries.
func TestReceiptOfAnUnknownRecipient(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	o, smtpURL := openOffice(t)
	n := s.node(t, smtpURL, shoptest.Redis(t))
	events := s.paidBy(t, "unknown", 3)
	consume(t, n, events)
	for _, event := range events {
		s.failed(t, event, 1, true)
		s.due(t)
		if err := try(t, n, event); err != nil { // the event comes again
			t.Error(err)
		}
	}
	if tries := o.count(tried, "unknown"); tries != 3 {
		t.Errorf("%d tries, want 3", tries)
	}
	letters := NewLetters(s.pool)
	var seen []uuid.UUID
	for before, more := (*uuid.UUID)(nil), true; more; {
		var page []Letter
		var err error
		if page, more, err = letters.List(t.Context(), before, 2); err != nil {
			t.Fatal(err)
		}
		for _, letter := range page {
			seen, before = append(seen, letter.OrderID), &letter.OrderID
			if !strings.Contains(letter.Reason, "550") || strings.Contains(letter.Reason, "@example.com") ||
				letter.DeadAt.IsZero() || letter.Attempt != 1 {
				t.Errorf("letter %+v", letter)
			}
		}
	}
	if len(seen) != 3 {
		t.Errorf("%d letters, want 3", len(seen))
	}
	o.set(nil)
	for i, want := range []bool{true, false} {
		if ok, err := letters.Retry(t.Context(), events[0].OrderID); ok != want || err != nil {
			t.Errorf("click %d: %v, %v, want %v", i+1, ok, err, want)
		}
	}
	n.sweep(t)
	s.recorded(t, events[0], true, 2)
	if n := o.count(accepted, "unknown"); n != 1 {
		t.Errorf("%d mails, want 1", n)
	}
}

func TestCircuitHoldsAndProbes(t *testing.T) {
	t.Parallel()
	var c circuit
	for i := range suspicion - 1 {
		if c.failed(false) || !c.closed() {
			t.Fatalf("open after %d unclear failures", i+1)
		}
	}
	c.worked()
	for i := range suspicion {
		if open := c.failed(false); open != (i == suspicion-1) {
			t.Fatalf("%d unclear failures in a row: open %v", i+1, open)
		}
	}
	for want := minHold; want < maxHold; want = min(2*want, maxHold) {
		if c.hold != want || c.ready() || c.allow() {
			t.Fatalf("it holds for %v, want %v", c.hold, want)
		}
		c.failed(true) // a mail that was on its way
		c.skip()
		if !c.ready() || !c.allow() || c.allow() || c.ready() {
			t.Fatal("want one mail to try")
		}
		c.skipped()
		if !c.allow() {
			t.Fatal("a mail that was not sent is no try")
		}
		if !c.failed(false) {
			t.Fatal("a failed try closes the circuit")
		}
	}
	c.worked()
	if !c.closed() || !c.allow() || !c.allow() || !c.failed(true) {
		t.Error("it does not close")
	}
}

func TestPausesGrow(t *testing.T) {
	t.Parallel()
	var sum time.Duration
	for failures, before := int32(1), time.Duration(0); failures < maxFailures; failures++ {
		next := pause(failures)
		if next < before && next < maxPause*3/4 || next > maxPause {
			t.Errorf("%v after %d failures and %v before", next, failures, before)
		}
		before = next
		sum += next
	}
	if sum < 24*time.Hour || sum > 4*24*time.Hour {
		t.Errorf("the last try is after %v", sum)
	}
}

func TestReasonsAreTextWithoutTheBuyer(t *testing.T) {
	t.Parallel()
	err := errors.New("no\x00 \xff ann@example.com " + strings.Repeat("ü", maxReason))
	got := reason(err, "ann@example.com")
	if len(got) > maxReason || strings.ContainsRune(got, 0) || !utf8.ValidString(got) || strings.Contains(got, "ann@") {
		t.Errorf("%q", got)
	}
}

// Receipts that are put off or refused leave the others their throughput.
func TestOneReceiptDoesNotStopTheOthers(t *testing.T) { //nolint:paralleltest // it measures
	shoptest.Long(t)
	const many = 400
	s := newShop(t)
	o, smtpURL := openOffice(t)
	n := s.node(t, smtpURL, shoptest.Redis(t))
	start(t, n)
	round := 0
	shoptest.Isolated(t, 1, func(_ int, poisoned bool) time.Duration {
		round++
		var poison []outbox.Event
		for _, address := range []string{"later", "policy", "unknown"} {
			if poisoned {
				poison = append(poison, s.paidBy(t, fmt.Sprintf("%s-%d-", address, round), 1)...)
			}
		}
		events := s.paidBy(t, fmt.Sprintf("fresh%d", round), many)
		s.due(t) // the poison of earlier rounds
		begin := time.Now()
		consume(t, n, slices.Concat(poison, events))
		took := time.Since(begin)
		if got := o.count(accepted, fmt.Sprintf("fresh%d", round)); got != many {
			t.Errorf("%d receipts, want %d", got, many)
		}
		return took
	})
}
