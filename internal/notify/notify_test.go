package notify

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/outbox"
	natsbroker "github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/redisclient"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// patience bounds every wait, on a busy machine.
const patience = 20 * time.Second

const redisPrefix = "test:"

// shop is the database of a shop with one customer.
type shop struct {
	url    string
	pool   *pgxpool.Pool
	orders *orders.Service
	alice  uuid.UUID
}

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{url: shoptest.DatabaseURL(t), alice: uuid.New()}
	s.pool = shoptest.Pool(t, s.url)
	s.orders = orders.New(s.pool, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
	s.exec(t, "INSERT INTO customers (id) VALUES ($1)", s.alice)
	for i, p := range []orders.Product{
		{SKU: "CUP", Name: "Espresso cup", Description: "A cup.", Currency: "EUR", UnitPrice: 1250},
		{SKU: "POT", Name: "Teapot", Description: "A pot.", Currency: "EUR", UnitPrice: 3900},
	} {
		if err := s.orders.AddProduct(t.Context(), p, i); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.orders.Receive(t.Context(), orders.ReceiveDelivery{CustomerID: s.alice, Key: "stock",
		Lines: []orders.LineRequest{{SKU: "CUP", Quantity: 1000}, {SKU: "POT", Quantity: 1000}}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// node is one machine of the shop: a service with connections of its own.
type node struct {
	*Service
	pool *pgxpool.Pool
}

func (s *shop) node(t *testing.T, smtpURL, redisURL string) node {
	t.Helper()
	client, err := redisclient.Open(redisURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	// Connect first: on a busy machine, a connection can take longer than Redis's time limit.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_ = client.Ping(ctx).Err() // some of the tests have no Redis
	pool := shoptest.Pool(t, s.url)
	quiet := slog.New(slog.DiscardHandler)
	placing := orders.New(pool, orders.DefaultExpiry, time.Now, quiet)
	service := New(pool, placing, dedup.NewClaims(client, redisPrefix), newMailer(t, smtpURL, patience), Shop{
		Name: "Onceshop", URL: "http://127.0.0.1:8080", Host: "shop.example", From: "receipts@shop.example"}, nil,
		quiet)
	return node{service, pool}
}

// paid places and pays an order, and returns the event of that.
func (s *shop) paid(t *testing.T) outbox.Event {
	t.Helper()
	answer, err := s.orders.Place(t.Context(), orders.PlaceOrder{
		CustomerID: s.alice, Key: dedup.Key(uuid.NewString()), Email: "alice@example.com",
		Lines: []orders.LineRequest{{SKU: "CUP", Quantity: 3}, {SKU: "POT", Quantity: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []orders.Status{orders.Paying, orders.Paid} {
		err := pg.InPipe(t.Context(), s.pool, func(tx *pg.Pipe) error {
			locked := s.orders.LockTx(tx, answer.ID)
			if err := tx.Flush(t.Context()); err != nil {
				return err
			}
			return s.orders.ChangeStatusTx(t.Context(), tx, locked, orders.Change{OrderID: answer.ID, To: to})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	event := outbox.Event{OrderID: answer.ID}
	const paidEvent = "SELECT id, type, created_at, payload FROM outbox WHERE order_id = $1 AND type = $2"
	err = s.pool.QueryRow(t.Context(), paidEvent, answer.ID, orders.EventPaid).
		Scan(&event.ID, &event.Type, &event.CreatedAt, &event.Data)
	if err != nil {
		t.Fatal(err)
	}
	return event
}

func (s *shop) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := s.pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// recorded expects the event's row, sent or not, after that many attempts.
func (s *shop) recorded(t *testing.T, event outbox.Event, sent bool, attempts int) {
	t.Helper()
	var gotSent bool
	var gotAttempts int
	err := s.pool.QueryRow(t.Context(), `SELECT sent_at IS NOT NULL, attempt FROM receipts
		WHERE order_id = $1 AND kind = 'paid'`, event.OrderID).Scan(&gotSent, &gotAttempts)
	if err != nil {
		t.Errorf("the receipt's row: %v", err)
	} else if gotSent != sent || gotAttempts != attempts {
		t.Errorf("sent: %v after %d attempts, want %v after %d", gotSent, gotAttempts, sent, attempts)
	}
}

// wantRetry expects an error that puts the event off.
func wantRetry(t *testing.T, err error) {
	t.Helper()
	var later *outbox.RetryError
	if !errors.As(err, &later) || later.After <= 0 {
		t.Fatalf("%v (%+v), want an outbox.RetryError", err, later)
	}
}

// due ends the leases and pauses of the receipts that have not ended.
func (s *shop) due(t *testing.T) {
	t.Helper()
	s.exec(t, `UPDATE receipts SET due_at = now() - interval '1 ms', lease_until = now() - interval '1 ms'
		WHERE sent_at IS NULL`)
}

// sweep sends what is due. The mail server may be tried at once.
func (n node) sweep(t *testing.T) {
	t.Helper()
	for _, failed := range []bool{false, true} {
		for found := true; found; {
			n.circuit.skip()
			var err error
			if found, err = n.RunOnce(t.Context(), failed); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// skip ends the pause of an open circuit.
func (c *circuit) skip() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = time.Time{}
}

// try handles the event, and sends what a claim in Redis, or an open circuit, has left to the
// sweeper. On a busy machine the release of a claim can miss its time limit in Redis.
func try(t *testing.T, n node, event outbox.Event) error {
	t.Helper()
	n.circuit.skip()
	err := n.HandlePaid(t.Context(), event)
	if err == nil {
		n.sweep(t)
	}
	return err
}

// letter is a mail that waits for the answer of the server.
type letter struct {
	raw    string
	answer chan error
}

// postOffice is a real SMTP server where the test answers every mail.
type postOffice struct {
	letters  chan letter
	accepted atomic.Int32
	closed   chan struct{}
}

func openPostOffice(t *testing.T, l net.Listener) *postOffice {
	t.Helper()
	p := &postOffice{letters: make(chan letter), closed: make(chan struct{})}
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return counter{p}, nil }))
	server.Domain = "localhost"
	server.ErrorLog = log.New(io.Discard, "", 0)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		close(p.closed)
		_ = server.Close()
		<-ended
	})
	return p
}

// next waits for a mail.
func (p *postOffice) next(t *testing.T) letter {
	t.Helper()
	select {
	case mail := <-p.letters:
		return mail
	case <-time.After(2 * sendLease):
		t.Fatal("no mail came")
		return letter{}
	}
}

// none expects that no mail waits for an answer.
func (p *postOffice) none(t *testing.T) {
	t.Helper()
	select {
	case mail := <-p.letters:
		t.Errorf("a second mail came: %s", mail.raw)
		mail.answer <- nil
	default:
	}
}

type counter struct{ *postOffice }

func (counter) Mail(string, *smtp.MailOptions) error { return nil }
func (counter) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (counter) Reset()                               {}
func (counter) Logout() error                        { return nil }

func (c counter) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	mail := letter{string(raw), make(chan error, 1)}
	select {
	case c.letters <- mail:
	case <-c.closed:
		return smtp.ErrServerClosed
	}
	select {
	case err = <-mail.answer:
	case <-c.closed:
		return smtp.ErrServerClosed
	}
	if err == nil {
		c.accepted.Add(1)
	}
	return err
}

// handle delivers the event in the background, once the claim is free.
func handle(t *testing.T, n node, event outbox.Event) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- try(t, n, event) }()
	return done
}

func TestReceiptOfAPaidOrder(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	smtpURL, all := startMailbox(t)
	n := s.node(t, smtpURL, shoptest.Redis(t))
	first, second := s.paid(t), s.paid(t)
	for _, event := range []outbox.Event{first, second, first} {
		if err := try(t, n, event); err != nil {
			t.Fatal(err)
		}
	}
	s.recorded(t, first, true, 1)
	s.recorded(t, second, true, 1)
	mails := all() // newest first
	if len(mails) != 2 {
		t.Fatalf("%d mails, want one for each order", len(mails))
	}
	for i, event := range []outbox.Event{second, first} {
		mail := mails[i]
		if want := "receipt." + event.OrderID.String() + "@shop.example"; mail.MessageID != want {
			t.Errorf("Message-ID %q, want %q", mail.MessageID, want)
		}
		if len(mail.To) != 1 || mail.To[0].Address != "alice@example.com" ||
			mail.From.Address != "receipts@shop.example" {
			t.Errorf("from %v to %v", mail.From, mail.To)
		}
		for _, want := range []string{event.OrderID.String(), "Espresso cup", "€37.50", "Teapot", "€39.00", "€76.50"} {
			if !strings.Contains(mail.Text, want) || !strings.Contains(mail.HTML, want) {
				t.Errorf("the mail lacks %q:\n%s", want, mail.Text)
			}
		}
	}
}

// An event that is delivered twenty times at once to two nodes becomes one mail, with any Redis.
func TestReceiptOfTwentyTwins(t *testing.T) {
	t.Parallel()
	for name, redis := range map[string]func(*testing.T) string{
		"Redis": func(t *testing.T) string { return shoptest.Redis(t) },
		"no Redis": func(t *testing.T) string {
			l := listen(t)
			l.Close()
			return "redis://" + l.Addr().String()
		},
		"Redis never speaks": func(t *testing.T) string { return "redis://" + muteServer(t, "").Addr().String() },
		"Redis's answers are lost": func(t *testing.T) string {
			behind := strings.TrimSuffix(strings.TrimPrefix(shoptest.Redis(t), "redis://"), "/0")
			return "redis://" + muteServer(t, behind).Addr().String()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			smtpURL, all := startMailbox(t)
			redisURL := redis(t)
			nodes := []node{s.node(t, smtpURL, redisURL), s.node(t, smtpURL, redisURL)}
			event := s.paid(t)
			for _, err := range shoptest.Race(20, func(i int) error {
				return nodes[i%2].HandlePaid(t.Context(), event)
			}) {
				if err != nil {
					t.Error(err)
				}
			}
			for _, n := range nodes {
				if err := try(t, n, event); err != nil {
					t.Errorf("delivered once more: %v", err)
				}
				// 100 ms are for Redis; the rest is what a busy machine may add.
				start := time.Now()
				_ = n.HandlePaid(t.Context(), event)
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("delivered once more: took %v", took)
				}
			}
			if mails := all(); len(mails) != 1 {
				t.Errorf("%d mails, want 1", len(mails))
			}
			s.recorded(t, event, true, 1)
		})
	}
}

// muteServer accepts requests, passes them on to the address if there is one, and never answers.
func muteServer(t *testing.T, passOn string) net.Listener {
	t.Helper()
	l := listen(t)
	serve := func(client net.Conn) {
		defer client.Close()
		out := io.Discard
		if passOn != "" {
			server, err := net.Dial("tcp", passOn)
			if err != nil {
				return
			}
			defer server.Close()
			out = server
		}
		_, _ = io.Copy(out, client)
	}
	var done []chan struct{}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			end := make(chan struct{})
			done = append(done, end)
			go func() { defer close(end); serve(client) }()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
		for _, end := range done { // the clients have closed their connections by then
			<-end
		}
	})
	return l
}

// Whatever happens to Redis during a send, the receipt is sent once.
func TestReceiptWhenRedisFailsInMidSend(t *testing.T) {
	t.Parallel()
	for name, happens := range map[string]func(*shoptest.RedisServer){
		"nothing":   func(*shoptest.RedisServer) {},
		"killed":    (*shoptest.RedisServer).Kill,
		"restarted": (*shoptest.RedisServer).Restart,
		"flushed":   (*shoptest.RedisServer).FlushAll,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			l := listen(t)
			post := openPostOffice(t, l)
			redis := shoptest.StartRedis(t)
			smtpURL := "smtp://" + l.Addr().String()
			sender, other := s.node(t, smtpURL, redis.URL()), s.node(t, smtpURL, redis.URL())
			event := s.paid(t)
			sending := handle(t, sender, event)
			mail := post.next(t)
			happens(redis)
			for range 3 { // stopped by the claim in Redis, or by the row's lease
				if err := try(t, other, event); err != nil {
					t.Error(err)
				}
			}
			post.none(t)
			mail.answer <- nil
			if err := <-sending; err != nil {
				t.Errorf("the sender: %v", err)
			}
			for _, n := range []node{other, sender, other} {
				if err := try(t, n, event); err != nil {
					t.Errorf("delivered again: %v", err)
				}
			}
			post.none(t)
			if n := post.accepted.Load(); n != 1 {
				t.Errorf("%d mails, want 1", n)
			}
			s.recorded(t, event, true, 1)
		})
	}
}

// A receipt that Redis calls done, or busy for ever, and that is not recorded as sent: the row
// decides, and the sweeper sends what the event's handler leaves.
func TestReceiptWhenRedisIsWrong(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"done", "another sender's token", ""} {
		t.Run(value, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			smtpURL, all := startMailbox(t)
			redisURL := shoptest.Redis(t)
			n := s.node(t, smtpURL, redisURL)
			client, err := redisclient.Open(redisURL)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			for i := range 2 {
				event := s.paid(t)
				key := redisPrefix + "receipt:" + event.OrderID.String()
				if err := client.SetArgs(t.Context(), key, value, redis.SetArgs{}).Err(); err != nil {
					t.Fatal(err)
				}
				if i == 1 { // the row is there, of a sender that died
					s.exec(t, "INSERT INTO receipts (order_id, kind, lease_until) VALUES ($1, 'paid', '-infinity')",
						event.OrderID)
				}
				for range 3 {
					if err := try(t, n, event); err != nil {
						t.Fatal(err)
					}
				}
				s.recorded(t, event, true, i+1)
			}
			if mails := all(); len(mails) != 2 {
				t.Errorf("%d mails, want 2", len(mails))
			}
		})
	}
}

// Redis saves the write of a claim: what it calls done is only looked up.
func TestReceiptIsStoppedByRedis(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	smtpURL, all := startMailbox(t)
	n := s.node(t, smtpURL, shoptest.Redis(t))
	var heard bytes.Buffer
	n.log = slog.New(slog.NewTextHandler(&heard, nil))
	event := s.paid(t)
	shoptest.Eventually(t, patience, "Redis stops a second delivery", func() bool {
		if err := try(t, n, event); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(heard.String(), "layer=redis")
	})
	n.pool.Close()
	wantRetry(t, n.HandlePaid(t.Context(), event))
	if mails := all(); len(mails) != 1 {
		t.Errorf("%d mails, want 1", len(mails))
	}
	s.recorded(t, event, true, 1)
}

// A sender that died before the send holds its claims until their leases end.
func TestReceiptOfADeadSender(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	smtpURL, all := startMailbox(t)
	n := s.node(t, smtpURL, shoptest.Redis(t))

	over := s.paid(t)
	const claimedUntil = "INSERT INTO receipts (order_id, kind, lease_until) VALUES ($1, 'paid', now() + $2::interval)"
	s.exec(t, claimedUntil, over.OrderID, -time.Millisecond)
	if err := n.HandlePaid(t.Context(), over); err != nil {
		t.Errorf("the lease is over: %v", err)
	}
	s.recorded(t, over, true, 2)

	running := s.paid(t)
	s.exec(t, claimedUntil, running.OrderID, time.Hour)
	if err := try(t, n, running); err != nil {
		t.Errorf("the lease has not ended: %v", err)
	}
	s.recorded(t, running, false, 1)
	s.due(t)
	n.sweep(t)
	s.recorded(t, running, true, 2)

	swept := s.paid(t) // and its event is lost
	s.exec(t, claimedUntil, swept.OrderID, -time.Millisecond)
	n.sweep(t)
	s.recorded(t, swept, true, 2)

	ids := map[string]bool{}
	for _, mail := range all() {
		ids[mail.MessageID] = true
	}
	if len(all()) != 3 || len(ids) != 3 {
		t.Errorf("%d mails about %d orders, want 3 and 3", len(all()), len(ids))
	}
}

// A sender that dies after the mail server accepted the mail leaves no record of it. The next
// sender sends it again, with the same Message-ID, and no other does.
func TestReceiptAcceptedButNotRecorded(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	smtpURL, all := startMailbox(t)
	redis := shoptest.StartRedis(t)
	n := s.node(t, smtpURL, redis.URL())
	event := s.paid(t)
	if err := n.HandlePaid(t.Context(), event); err != nil {
		t.Fatal(err)
	}
	s.exec(t, "UPDATE receipts SET sent_at = NULL, lease_until = now() - interval '1 ms'")
	redis.FlushAll()
	for range 3 {
		if err := try(t, n, event); err != nil {
			t.Fatal(err)
		}
	}
	mails := all()
	if len(mails) != 2 || mails[0].MessageID != mails[1].MessageID {
		t.Errorf("%d mails, want 2 with one Message-ID: %+v", len(mails), mails)
	}
	s.recorded(t, event, true, 2)
}

// A sender that fails after its lease does not release the claim of its successor.
func TestReceiptOfASenderThatSleptThroughItsLease(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	l := listen(t)
	post := openPostOffice(t, l)
	redis := shoptest.StartRedis(t)
	smtpURL := "smtp://" + l.Addr().String()
	sleeper, heir := s.node(t, smtpURL, redis.URL()), s.node(t, smtpURL, redis.URL())
	third := s.node(t, smtpURL, redis.URL())
	event := s.paid(t)
	sleeping := handle(t, sleeper, event)
	stale := post.next(t)
	redis.FlushAll()
	s.exec(t, "UPDATE receipts SET lease_until = now() - interval '1 ms'")
	taking := handle(t, heir, event)
	fresh := post.next(t)
	stale.answer <- &smtp.SMTPError{Code: 451, Message: "later"}
	if err := <-sleeping; err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := try(t, third, event); err != nil {
			t.Error(err)
		}
		redis.FlushAll()
	}
	s.recorded(t, event, false, 2)
	fresh.answer <- nil
	if err := <-taking; err != nil {
		t.Error(err)
	}
	if err := try(t, third, event); err != nil {
		t.Error(err)
	}
	post.none(t)
	if n := post.accepted.Load(); n != 1 {
		t.Errorf("%d mails, want 1", n)
	}
	s.recorded(t, event, true, 2)
}

// Whatever the mail server does, the receipt's row stands, and the receipt is sent in the end.
func TestReceiptWhenTheMailServerFails(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	down := listen(t)
	down.Close()
	n := s.node(t, "smtp://"+down.Addr().String(), shoptest.Redis(t))
	event := s.paid(t)
	if err := n.HandlePaid(t.Context(), event); err != nil {
		t.Fatal(err)
	}
	s.recorded(t, event, false, 1)
	if n.circuit.closed() {
		t.Error("no server, and the circuit is closed")
	}
	held := s.paid(t)
	if err := n.HandlePaid(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	s.recorded(t, held, false, 0) // the open circuit saves the try

	l, err := net.Listen("tcp", down.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	post := openPostOffice(t, l)
	for failures, code := range []int{451, 554} {
		s.due(t)
		s.exec(t, "UPDATE receipts SET due_at = now() + interval '1 hour' WHERE order_id = $1", held.OrderID)
		n.circuit.worked()
		sending := handle(t, n, event)
		post.next(t).answer <- &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, 7, 1},
			Message: "no"}
		if err := <-sending; err != nil {
			t.Error(err)
		}
		s.failed(t, event, failures+1, false)
	}
	s.due(t)
	sending := handle(t, n, event)
	mail := post.next(t)
	mail.answer <- nil
	go func() { post.next(t).answer <- nil }() // the one that the circuit held
	if err := <-sending; err != nil {
		t.Error(err)
	}
	if !strings.Contains(mail.raw, "Message-ID: <receipt."+event.OrderID.String()+"@shop.example>\r\n") &&
		!strings.Contains(mail.raw, "Message-ID: <receipt."+held.OrderID.String()+"@shop.example>\r\n") {
		t.Errorf("no Message-ID in\n%s", mail.raw)
	}
	if err := try(t, n, event); err != nil {
		t.Error(err)
	}
	post.none(t)
	if n := post.accepted.Load(); n != 2 {
		t.Errorf("%d mails, want 2", n)
	}
	s.recorded(t, event, true, 4)
	s.recorded(t, held, true, 1)
}

// failed expects the failures of the event's receipt and whether it is a dead letter.
func (s *shop) failed(t *testing.T, event outbox.Event, failures int, dead bool) {
	t.Helper()
	var gotFailures int
	var gotDead bool
	err := s.pool.QueryRow(t.Context(), "SELECT failures, dead_at IS NOT NULL FROM receipts WHERE order_id = $1",
		event.OrderID).Scan(&gotFailures, &gotDead)
	if err != nil || gotFailures != failures || gotDead != dead {
		t.Errorf("%d failures, dead: %v, %v, want %d and %v", gotFailures, gotDead, err, failures, dead)
	}
}

func TestReceiptOfNoOrder(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	smtpURL, all := startMailbox(t)
	n := s.node(t, smtpURL, shoptest.Redis(t))
	err := n.HandlePaid(t.Context(), outbox.Event{ID: uuid.New(), Type: orders.EventPaid, OrderID: uuid.New()})
	var later *outbox.RetryError
	if err == nil || errors.As(err, &later) {
		t.Errorf("%v, want an error that ends as a dead letter", err)
	}
	if mails := all(); len(mails) != 0 {
		t.Errorf("%d mails", len(mails))
	}
}

// Every event is in the stream twice and two nodes consume it: each order gets one mail.
func TestReceiptsThroughTheBroker(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	smtpURL, all := startMailbox(t)
	redisURL := shoptest.Redis(t)
	server := shoptest.NATS(t, t.TempDir())
	quiet := slog.New(slog.DiscardHandler)
	open := func() (jetstream.JetStream, *natsbroker.Broker) {
		conn, err := nats.Connect(server.URL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		js, err := jetstream.New(conn)
		if err != nil {
			t.Fatal(err)
		}
		b := natsbroker.New(js, natsbroker.Settings{Window: 10 * time.Minute, MaxAge: 24 * time.Hour}, quiet)
		if err := b.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		return js, b
	}
	js, first := open()
	const n = 5
	for range n {
		s.paid(t)
	}
	if _, err := outbox.NewRelay(s.pool, first, 30*time.Second, nil, quiet).RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), natsbroker.EventStream)
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= stream.CachedInfo().State.Msgs; seq++ {
		msg, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), msg.Subject, msg.Data); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		_, node := open()
		consumer, err := outbox.NewConsumer(t.Context(), s.pool, node, ConsumerName, orders.EventPaid,
			s.node(t, smtpURL, redisURL).HandlePaid, quiet)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- consumer.Run(ctx) }()
		t.Cleanup(func() { stop(); <-ended })
	}
	shoptest.Eventually(t, 2*sendLease, "all events are acknowledged", func() bool {
		consumer, err := js.Consumer(t.Context(), natsbroker.EventStream, ConsumerName)
		if err != nil {
			t.Fatal(err)
		}
		info := consumer.CachedInfo()
		return info.AckFloor.Consumer > 0 && info.NumPending == 0 && info.NumAckPending == 0
	})
	ids := map[string]int{}
	for _, mail := range all() {
		ids[mail.MessageID]++
	}
	if len(ids) != n || len(all()) != n {
		t.Errorf("%d mails about %d orders, want %d and %d: %v", len(all()), len(ids), n, n, ids)
	}
}
