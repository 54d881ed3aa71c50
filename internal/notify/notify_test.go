package notify

import (
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

// wantRetry expects an error that puts the event off for a time between least and most.
func wantRetry(t *testing.T, err error, least, most time.Duration) {
	t.Helper()
	var later *outbox.RetryError
	if !errors.As(err, &later) || later.After < least || later.After > most {
		t.Fatalf("%v (%+v), want an outbox.RetryError after %v to %v", err, later, least, most)
	}
}

// try handles the event until no other node has the claim. On a busy machine the release of a claim
// can miss its time limit in Redis; the lease then has to end.
func try(t *testing.T, n node, event outbox.Event) error {
	t.Helper()
	deadline := time.After(2 * sendLease)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := n.HandlePaid(t.Context(), event)
		if !errors.Is(err, dedup.ErrBusy) {
			return err
		}
		select {
		case <-tick.C:
		case <-deadline:
			return err
		}
	}
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
			sent := 0
			for _, err := range shoptest.Race(20, func(i int) error {
				return nodes[i%2].HandlePaid(t.Context(), event)
			}) {
				if err == nil {
					sent++
				} else {
					wantRetry(t, err, time.Second, sendLease)
				}
			}
			if sent == 0 {
				t.Error("nobody sent the receipt")
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
			for range 3 { // put off by the claim in Redis, or by the row's lease
				wantRetry(t, other.HandlePaid(t.Context(), event), busyRetry, sendLease)
			}
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

// Redis alone stops a second delivery: the node that gets it has no database and does not need it.
func TestReceiptIsStoppedByRedisAlone(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	l := listen(t)
	post := openPostOffice(t, l)
	redis := shoptest.StartRedis(t)
	smtpURL := "smtp://" + l.Addr().String()
	sender, blind := s.node(t, smtpURL, redis.URL()), s.node(t, smtpURL, redis.URL())
	blind.pool.Close()
	event := s.paid(t)
	sending := handle(t, sender, event)
	mail := post.next(t)
	shoptest.Eventually(t, patience, "Redis knows of the other sender", func() bool {
		var later *outbox.RetryError
		err := blind.HandlePaid(t.Context(), event)
		return errors.Is(err, dedup.ErrBusy) && errors.As(err, &later) && later.After == busyRetry
	})
	mail.answer <- nil
	if err := <-sending; err != nil {
		t.Fatal(err)
	}
	shoptest.Eventually(t, 2*sendLease, "Redis knows that the receipt is sent", func() bool {
		if err := try(t, sender, event); err != nil {
			t.Errorf("delivered again: %v", err)
		}
		return blind.HandlePaid(t.Context(), event) == nil
	})
	// When Redis has forgotten, the node needs the database.
	redis.FlushAll()
	wantRetry(t, blind.HandlePaid(t.Context(), event), time.Second, time.Second)
	post.none(t)
	if n := post.accepted.Load(); n != 1 {
		t.Errorf("%d mails, want 1", n)
	}
}

// A sender that died before the send holds its claims until their leases end.
func TestReceiptOfADeadSender(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	smtpURL, all := startMailbox(t)
	redisURL := shoptest.Redis(t)
	n, blind := s.node(t, smtpURL, redisURL), s.node(t, smtpURL, redisURL)
	blind.pool.Close()
	client, err := redisclient.Open(redisURL)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	over := s.paid(t)
	const claimedUntil = "INSERT INTO receipts (order_id, kind, lease_until) VALUES ($1, 'paid', now() + $2::interval)"
	s.exec(t, claimedUntil, over.OrderID, -time.Millisecond)
	if err := n.HandlePaid(t.Context(), over); err != nil {
		t.Errorf("the lease is over: %v", err)
	}
	s.recorded(t, over, true, 2)

	running := s.paid(t)
	s.exec(t, claimedUntil, running.OrderID, time.Hour)
	wantRetry(t, n.HandlePaid(t.Context(), running), 59*time.Minute, time.Hour)
	s.recorded(t, running, false, 1)
	s.exec(t, "UPDATE receipts SET lease_until = now() - interval '1 ms' WHERE order_id = $1", running.OrderID)
	if err := try(t, n, running); err != nil {
		t.Errorf("the lease has ended: %v", err)
	}
	s.recorded(t, running, true, 2)

	claimed := s.paid(t)
	key := redisPrefix + "receipt:" + claimed.OrderID.String()
	set := redis.SetArgs{TTL: time.Hour}
	if err := client.SetArgs(t.Context(), key, "a dead sender's token", set).Err(); err != nil {
		t.Fatal(err)
	}
	shoptest.Eventually(t, patience, "Redis knows of the other sender", func() bool {
		return errors.Is(blind.HandlePaid(t.Context(), claimed), dedup.ErrBusy)
	})
	short := redis.SetArgs{TTL: time.Millisecond}
	if err := client.SetArgs(t.Context(), key, "a dead sender's token", short).Err(); err != nil {
		t.Fatal(err)
	}
	if err := try(t, n, claimed); err != nil {
		t.Errorf("the claim has ended: %v", err)
	}
	s.recorded(t, claimed, true, 1)

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
	wantRetry(t, <-sleeping, smtpRetry, smtpRetry)
	wantRetry(t, third.HandlePaid(t.Context(), event), busyRetry, sendLease)
	redis.FlushAll()
	wantRetry(t, third.HandlePaid(t.Context(), event), busyRetry+time.Second, sendLease)
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

func TestReceiptWhenTheMailServerFails(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	down := listen(t)
	down.Close()
	n := s.node(t, "smtp://"+down.Addr().String(), shoptest.Redis(t))
	event := s.paid(t)
	for range 2 {
		wantRetry(t, try(t, n, event), smtpRetry, smtpRetry)
	}
	s.recorded(t, event, false, 2)

	l, err := net.Listen("tcp", down.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	post := openPostOffice(t, l)
	for code, passes := range map[int]bool{451: true, 554: false} {
		sending := handle(t, n, event)
		post.next(t).answer <- &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, 0, 0},
			Message: "no"}
		err := <-sending
		var later *outbox.RetryError
		if err == nil || errors.As(err, &later) != passes || errors.Is(err, ErrRejected) == passes {
			t.Errorf("answer %d: %v, want it to pass: %v", code, err, passes)
		}
	}
	s.recorded(t, event, false, 4)
	sending := handle(t, n, event)
	mail := post.next(t)
	mail.answer <- nil
	if err := <-sending; err != nil {
		t.Error(err)
	}
	if !strings.Contains(mail.raw, "Message-ID: <receipt."+event.OrderID.String()+"@shop.example>\r\n") {
		t.Errorf("no Message-ID in\n%s", mail.raw)
	}
	if err := try(t, n, event); err != nil {
		t.Error(err)
	}
	post.none(t)
	if n := post.accepted.Load(); n != 1 {
		t.Errorf("%d mails, want 1", n)
	}
	s.recorded(t, event, true, 5)
}

// A failed send releases its claims, so that the next try need not wait for their leases. On a busy
// machine the release can miss its time limit in Redis, but not for every order.
func TestReceiptThatFailedIsFreeAgain(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	down := listen(t)
	down.Close()
	n := s.node(t, "smtp://"+down.Addr().String(), shoptest.Redis(t))
	for range 10 {
		event := s.paid(t)
		wantRetry(t, n.HandlePaid(t.Context(), event), smtpRetry, smtpRetry)
		if err := n.HandlePaid(t.Context(), event); !errors.Is(err, dedup.ErrBusy) {
			wantRetry(t, err, smtpRetry, smtpRetry)
			s.recorded(t, event, false, 2)
			return
		}
	}
	t.Error("failed tries hold on to their claims")
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
	broker := shoptest.NATS(t, t.TempDir())
	quiet := slog.New(slog.DiscardHandler)
	open := func() (jetstream.JetStream, *outbox.Streams) {
		conn, err := nats.Connect(broker.URL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		js, err := jetstream.New(conn)
		if err != nil {
			t.Fatal(err)
		}
		streams, err := outbox.OpenStreams(t.Context(), js, outbox.Prefix, 10*time.Minute, 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return js, streams
	}
	js, streams := open()
	const n = 5
	for range n {
		s.paid(t)
	}
	if _, err := outbox.NewRelay(s.pool, streams, 30*time.Second, nil, quiet).RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), outbox.EventStream)
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
		_, streams := open()
		consumer, err := outbox.NewConsumer(t.Context(), streams, ConsumerName, orders.EventPaid,
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
		consumer, err := js.Consumer(t.Context(), outbox.EventStream, ConsumerName)
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
