package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	natsbroker "github.com/onceshop/onceshop/internal/outbox/broker/nats"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const (
	paid         = "order.paid"
	consumerName = "receipts"
	// An event that fails five times becomes a dead letter.
	five = 5
)

var errBroken = errors.New("it is broken")

// newConsumer opens a consumer that retries a failed event almost at once.
func newConsumer(t *testing.T, pool *pgxpool.Pool, on broker.Broker,
	handle func(context.Context, Event) error) *Consumer {
	t.Helper()
	c, err := NewConsumer(t.Context(), pool, on, consumerName, paid, handle, quiet)
	if err != nil {
		t.Fatal(err)
	}
	c.retry = func(uint64) time.Duration { return time.Millisecond }
	return c
}

// run consumes until the test ends.
func run(t *testing.T, c *Consumer) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// tally counts a handler's calls by event.
type tally struct {
	mu    sync.Mutex
	calls map[uuid.UUID]int
}

// add returns which call for the event this is, from 1.
func (c *tally) add(id uuid.UUID) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == nil {
		c.calls = map[uuid.UUID]int{}
	}
	c.calls[id]++
	return c.calls[id]
}

func (c *tally) of(ids ...uuid.UUID) (counts []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		counts = append(counts, c.calls[id])
	}
	return counts
}

// settled waits until every event in the stream is delivered and acknowledged.
func (b *bundle) settled(t *testing.T) {
	t.Helper()
	shoptest.Eventually(t, patience, "all events are acknowledged", func() bool {
		consumer, err := b.js.Consumer(t.Context(), natsbroker.EventStream, consumerName)
		if err != nil {
			t.Fatal(err)
		}
		info := consumer.CachedInfo()
		return info.NumPending == 0 && info.NumAckPending == 0
	})
}

// ackWithin sets how long the broker waits for an acknowledgement.
func (b *bundle) ackWithin(t *testing.T, d time.Duration) {
	t.Helper()
	consumer, err := b.js.Consumer(t.Context(), natsbroker.EventStream, consumerName)
	if err != nil {
		t.Fatal(err)
	}
	config := consumer.CachedInfo().Config
	config.AckWait = d
	if _, err := b.js.UpdateConsumer(t.Context(), natsbroker.EventStream, config); err != nil {
		t.Fatal(err)
	}
}

func TestConsumerHandlesEventsOfItsType(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.publish(t, "order.placed", 2)
	ids := b.publish(t, paid, 20)
	var mu sync.Mutex
	var got []uuid.UUID
	run(t, newConsumer(t, b.pool, b.broker, func(_ context.Context, event Event) error {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, event.ID)
		data := strings.ReplaceAll(string(event.Data), " ", "")
		if event.Type != paid || event.OrderID == uuid.Nil ||
			data != fmt.Sprintf(`{"n":%d}`, slices.Index(ids, event.ID)) {
			t.Errorf("event %+v with %s", event, event.Data)
		}
		return nil
	}))
	b.settled(t)
	mu.Lock()
	defer mu.Unlock()
	slices.SortFunc(got, func(a, b uuid.UUID) int { return strings.Compare(a.String(), b.String()) })
	if !slices.Equal(got, ids) {
		t.Errorf("handled %v, want %v", got, ids)
	}
}

func TestConsumerRetriesFailures(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.publish(t, paid, 3)
	var calls tally
	run(t, newConsumer(t, b.pool, b.broker, func(_ context.Context, event Event) error {
		if n := calls.add(event.ID); event.ID == ids[1] && n < five {
			return errBroken
		}
		return nil
	}))
	b.settled(t)
	if got := calls.of(ids...); !slices.Equal(got, []int{1, five, 1}) {
		t.Errorf("called %v times, want 1, %d and 1", got, five)
	}
	if letters := stored(t, b.js, natsbroker.DeadStream); len(letters) != 0 {
		t.Errorf("%d dead letters of an event that was handled in the end", len(letters))
	}
}

// checkDead expects one dead letter, made of the event at seq.
func (b *bundle) checkDead(t *testing.T, seq uint64, reason string) {
	t.Helper()
	letters := stored(t, b.js, natsbroker.DeadStream)
	if len(letters) != 1 {
		t.Fatalf("%d dead letters, want 1", len(letters))
	}
	stream, err := b.js.Stream(t.Context(), natsbroker.EventStream)
	if err != nil {
		t.Fatal(err)
	}
	event, err := stream.GetMsg(t.Context(), seq)
	if err != nil {
		t.Fatal(err)
	}
	letter := letters[0]
	if letter.Subject != "shop.dead."+consumerName || string(letter.Data) != string(event.Data) {
		t.Errorf("dead letter %s: %s, want %s", letter.Subject, letter.Data, event.Data)
	}
	why, err := strconv.Unquote(letter.Header.Get("Shop-Error"))
	if err != nil || !strings.Contains(why, reason) {
		t.Errorf("Shop-Error %q, %v, want %q", why, err, reason)
	}
	from, at := letter.Header.Get("Shop-Subject"), letter.Header.Get("Shop-Stream-Seq")
	if from != "shop.events."+paid || at != strconv.FormatUint(seq, 10) {
		t.Errorf("Shop-Subject %q, Shop-Stream-Seq %q, want %d", from, at, seq)
	}
}

func TestConsumerBuriesPoison(t *testing.T) {
	t.Parallel()
	for what, fail := range map[string]func() error{
		"an error":   func() error { return fmt.Errorf("no way:\r\nX-Header: forged: %w", errBroken) },
		"it is shot": func() error { panic("it is shot") },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			ids := b.publish(t, paid, 20)
			poison := ids[4]
			var calls tally
			run(t, newConsumer(t, b.pool, b.broker, func(_ context.Context, event Event) error {
				if calls.add(event.ID); event.ID == poison {
					return fail()
				}
				return nil
			}))
			b.settled(t)
			want := slices.Repeat([]int{1}, 20)
			want[4] = five
			if got := calls.of(ids...); !slices.Equal(got, want) {
				t.Errorf("called %v times, want %v", got, want)
			}
			reason := "panic: it is shot"
			if what == "an error" {
				reason = "no way:\r\nX-Header: forged: it is broken"
			}
			b.checkDead(t, uint64(b.count(t, "SELECT stream_seq FROM outbox WHERE id = $1", poison)), reason)
		})
	}
}

func TestConsumerFailedEventHoldsUpNobody(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.publish(t, paid, 3*handlers)
	var calls tally
	c := newConsumer(t, b.pool, b.broker, func(_ context.Context, event Event) error {
		if calls.add(event.ID); slices.Contains(ids[:handlers], event.ID) {
			return errBroken
		}
		return nil
	})
	c.retry = func(uint64) time.Duration { return time.Hour }
	run(t, c)
	shoptest.Eventually(t, patience, "the events behind the failed ones are handled", func() bool {
		return slices.Equal(calls.of(ids...), slices.Repeat([]int{1}, len(ids)))
	})
}

func TestConsumerBuriesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ack, err := b.js.Publish(t.Context(), "shop.events."+paid, []byte("\x00 no JSON"))
	if err != nil {
		t.Fatal(err)
	}
	ids := b.publish(t, paid, 3)
	var calls tally
	run(t, newConsumer(t, b.pool, b.broker, func(_ context.Context, event Event) error {
		calls.add(event.ID)
		return nil
	}))
	b.settled(t)
	b.checkDead(t, ack.Sequence, "decode the event")
	if got := calls.of(append(ids, uuid.Nil)...); !slices.Equal(got, []int{1, 1, 1, 0}) {
		t.Errorf("called %v times, want 1, 1, 1 and never without an event", got)
	}
}

func TestConsumerKeepsAPoisonThatCannotBeBuried(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.publish(t, paid, 1)
	if err := b.js.DeleteStream(t.Context(), natsbroker.DeadStream); err != nil {
		t.Fatal(err)
	}
	var calls tally
	run(t, newConsumer(t, b.pool, b.broker, func(_ context.Context, event Event) error {
		calls.add(event.ID)
		return errBroken
	}))
	shoptest.Eventually(t, patience, "the event comes again", func() bool { return calls.of(ids...)[0] > five })
	if err := b.broker.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.settled(t)
	b.checkDead(t, 1, errBroken.Error())
}

func TestConsumerNeverBuriesWhatPasses(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.publish(t, paid, 2)
	var calls tally
	run(t, newConsumer(t, b.pool, b.broker, func(_ context.Context, event Event) error {
		if n := calls.add(event.ID); event.ID == ids[0] && n <= 2*five {
			return fmt.Errorf("the mail server: %w", &RetryError{After: time.Millisecond, Err: errBroken})
		}
		return nil
	}))
	b.settled(t)
	if got := calls.of(ids...); !slices.Equal(got, []int{2*five + 1, 1}) {
		t.Errorf("called %v times, want %d and 1", got, 2*five+1)
	}
	if letters := stored(t, b.js, natsbroker.DeadStream); len(letters) != 0 {
		t.Errorf("%d dead letters", len(letters))
	}
}

// Delays do not count as failed tries.
func TestConsumerCountsFailuresOnly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.publish(t, paid, 1)
	var calls tally
	run(t, newConsumer(t, b.pool, b.broker, func(_ context.Context, event Event) error {
		switch n := calls.add(event.ID); {
		case n <= 2*five:
			return &RetryError{After: time.Millisecond, Err: errBroken}
		case n < 3*five:
			return errBroken
		}
		return nil
	}))
	b.settled(t)
	if got := calls.of(ids...)[0]; got != 3*five {
		t.Errorf("called %d times, want %d", got, 3*five)
	}
	if letters := stored(t, b.js, natsbroker.DeadStream); len(letters) != 0 {
		t.Errorf("%d dead letters", len(letters))
	}
}

func TestConsumerSlowHandlerHoldsUpNobody(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.publish(t, paid, 5*handlers)
	release := make(chan struct{})
	var done tally
	run(t, newConsumer(t, b.pool, b.broker, func(_ context.Context, event Event) error {
		if event.ID == ids[0] {
			<-release
		}
		done.add(event.ID)
		return nil
	}))
	defer close(release)
	shoptest.Eventually(t, patience, "all others are handled", func() bool {
		return slices.Equal(done.of(ids...), slices.Concat([]int{0}, slices.Repeat([]int{1}, len(ids)-1)))
	})
}

// A node that stops hands its waiting events to another at once, instead of after ackWait.
func TestConsumerGivesBackWhatItHasNotBegun(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.publish(t, paid, 2*handlers)
	ctx, stop := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	busy.Add(handlers)
	release := make(chan struct{})
	var calls tally
	stopping := newConsumer(t, b.pool, b.broker, func(_ context.Context, event Event) error {
		calls.add(event.ID)
		busy.Done()
		<-release
		return nil
	})
	ended := make(chan error, 1)
	go func() { ended <- stopping.Run(ctx) }()
	busy.Wait()
	stop()
	close(release)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	run(t, newConsumer(t, b.pool, b.broker, func(_ context.Context, event Event) error {
		calls.add(event.ID)
		return nil
	}))
	b.settled(t)
	if got := calls.of(ids...); !slices.Equal(got, slices.Repeat([]int{1}, len(ids))) {
		t.Errorf("called %v times, want 1 each", got)
	}
}

func TestRetryError(t *testing.T) {
	t.Parallel()
	err := error(&RetryError{After: time.Second, Err: errBroken})
	if !errors.Is(err, errBroken) || err.Error() != errBroken.Error() {
		t.Errorf("%v does not show its cause", err)
	}
}

// silent is a broker that takes the end of a delivery and never answers. It notes the deadlines.
type silent struct {
	broker.Settlement
	asked chan time.Time
}

func (s silent) wait(ctx context.Context) error {
	deadline, bounded := ctx.Deadline()
	if !bounded {
		deadline = time.Now().Add(time.Hour)
	}
	s.asked <- deadline
	return context.DeadlineExceeded
}

func (s silent) Ack(ctx context.Context) error                { return s.wait(ctx) }
func (s silent) Dead(ctx context.Context, _ string) error     { return s.wait(ctx) }
func (silent) Retry(_ context.Context, _ time.Duration) error { return nil }

// A broker that dies before it confirms the end of a delivery holds up neither the next event nor
// the end of the process.
func TestConsumerWaitsForASilentBrokerNotForLong(t *testing.T) {
	t.Parallel()
	b := setup(t)
	fail := false
	c := newConsumer(t, b.pool, b.broker, func(context.Context, Event) error {
		if fail {
			return errBroken
		}
		return nil
	})
	asked := make(chan time.Time, 1)
	d := broker.Delivery{Settlement: silent{asked: asked},
		Message: broker.Message{Data: []byte(`{"type":"order.paid"}`)}}
	expect := func(how string, err error) {
		t.Helper()
		if wait := time.Until(<-asked); err == nil || wait > settleTimeout {
			t.Errorf("%s: %v, it waits for %s", how, err, wait)
		}
	}
	expect("acknowledge", c.process(t.Context(), d))
	fail = true
	for range five - 1 {
		if err := c.process(t.Context(), d); err != nil {
			t.Error(err)
		}
	}
	expect("give up", c.process(t.Context(), d))
}

// A node that dies before it acknowledges its work: another node gets the event again.
func TestConsumerLostAcknowledgement(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.publish(t, paid, 1)
	conn := connect(t, b.server.URL())
	_, second := openBroker(t, conn)
	var calls tally
	dying := newConsumer(t, b.pool, second, func(_ context.Context, event Event) error {
		calls.add(event.ID)
		conn.Close()
		return nil
	})
	next := newConsumer(t, b.pool, b.broker, func(_ context.Context, event Event) error {
		calls.add(event.ID)
		return nil
	})
	b.ackWithin(t, 300*time.Millisecond)
	if found, err := dying.RunOnce(t.Context()); !found || err == nil {
		t.Errorf("handled one: %t, %v, want an error: the event was not acknowledged", found, err)
	}
	run(t, next)
	b.settled(t)
	if got := calls.of(ids...)[0]; got < 2 {
		t.Errorf("called %d times, want 2, or more on a busy machine", got)
	}
}

// A handler that takes longer than ackWait runs again at the same time. It guards its own effect.
func TestConsumerSlowerThanTheBrokersPatience(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.publish(t, paid, 1)
	var calls tally
	twin := make(chan struct{})
	handle := func(ctx context.Context, event Event) error {
		switch calls.add(event.ID) {
		case 1:
			select {
			case <-twin:
			case <-ctx.Done():
				return ctx.Err()
			}
		case 2:
			close(twin)
		}
		return nil
	}
	_, second := openBroker(t, connect(t, b.server.URL()))
	nodes := []*Consumer{newConsumer(t, b.pool, b.broker, handle), newConsumer(t, b.pool, second, handle)}
	b.ackWithin(t, 300*time.Millisecond)
	for _, node := range nodes {
		run(t, node)
	}
	b.settled(t)
	if got := calls.of(ids...)[0]; got < 2 {
		t.Errorf("called %d times, want 2 or more", got)
	}
	if letters := stored(t, b.js, natsbroker.DeadStream); len(letters) != 0 {
		t.Errorf("%d dead letters of an event that was handled", len(letters))
	}
}

// One event under two message ids, as after the duplicate window: the handler recognizes it.
func TestConsumerSeesATwinInTheStream(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.publish(t, paid, 1)
	first := stored(t, b.js, natsbroker.EventStream)[0]
	if _, err := b.js.Publish(t.Context(), first.Subject, first.Data, jetstream.WithMsgID("another id")); err != nil {
		t.Fatal(err)
	}
	var calls tally
	run(t, newConsumer(t, b.pool, b.broker, func(_ context.Context, event Event) error {
		calls.add(event.ID)
		return nil
	}))
	b.settled(t)
	if got := calls.of(ids...); !slices.Equal(got, []int{2}) {
		t.Errorf("called %v times, want 2", got)
	}
}

func TestConsumersOfOneNameShareTheEvents(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, second := openBroker(t, connect(t, b.server.URL()))
	var calls tally
	both := make(chan struct{}) // closed when each node has an event in hand
	var arrivals sync.WaitGroup
	arrivals.Add(2)
	go func() {
		arrivals.Wait()
		close(both)
	}()
	for _, s := range []broker.Broker{b.broker, second} {
		arrived := sync.OnceFunc(arrivals.Done)
		run(t, newConsumer(t, b.pool, s, func(ctx context.Context, event Event) error {
			calls.add(event.ID)
			arrived()
			select {
			case <-both:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}))
	}
	ids := b.publish(t, paid, 10*handlers)
	b.settled(t)
	if got := calls.of(ids...); !slices.Equal(got, slices.Repeat([]int{1}, len(ids))) {
		t.Errorf("called %v times, want 1 each", got)
	}
}

func TestConsumerFinishesWhatItHasInHand(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.publish(t, paid, 1)
	ctx, stop := context.WithCancel(t.Context())
	started, release := make(chan struct{}), make(chan struct{})
	var calls tally
	c := newConsumer(t, b.pool, b.broker, func(ctx context.Context, event Event) error {
		calls.add(event.ID)
		close(started)
		<-release
		return ctx.Err()
	})
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	<-started
	stop()
	select {
	case err := <-ended:
		t.Fatalf("Run ended with a handler at work: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	b.settled(t)
	if got := calls.of(ids...); !slices.Equal(got, []int{1}) {
		t.Errorf("called %v times, want 1", got)
	}
}

func TestBackoffGrowsToHalfAMinute(t *testing.T) {
	t.Parallel()
	for tries, most := range map[uint64]time.Duration{1: 2 * time.Second, 2: 4 * time.Second, 4: 16 * time.Second,
		5: 30 * time.Second, 1 << 40: 30 * time.Second} {
		for range 100 {
			if d := backoff(tries); d < most/2 || d >= most {
				t.Fatalf("after %d tries: %v, want between %v and %v", tries, d, most/2, most)
			}
		}
	}
}
