package again

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/timeline"
)

// fifty is how many requests the greediest button sends at once.
const fifty = 50

// button is a way to make an order happen twice.
type button struct {
	// Name is the form's value.
	Name, Text, Hint string
	// Paid is whether the button needs a payment that has begun.
	Paid bool
	run  func(p *panel, ctx context.Context, order orders.Order) (result, error)
}

// buttons are in the order of the page.
var buttons = []button{
	{Name: "order", Text: "Send this order again", run: (*panel).sendOrder,
		Hint: "The same key and the same basket."},
	{Name: "fifty", Text: "50 times at once", run: (*panel).sendFifty,
		Hint: "From a start gate, on every node."},
	{Name: "basket", Text: "Same key, other basket", run: (*panel).sendOtherBasket,
		Hint: "One more of the first product."},
	{Name: "pay", Text: "Pay again from a second tab", run: (*panel).payAgain, Paid: true,
		Hint: "Once with the payment's own key, once with the key of a later tab."},
	{Name: "event", Text: "Repeat the provider’s event", run: (*panel).repeatEvent, Paid: true,
		Hint: "The webhook, signed anew under its id."},
	{Name: "paid", Text: "Redeliver the paid event", run: (*panel).redeliver, Paid: true,
		Hint: "The broker delivers it to the receipts twice."},
	{Name: "redis", Text: "Flush Redis first", run: (*panel).flushAndRedeliver, Paid: true,
		Hint: "Then redeliver: no claim is left in Redis."},
	{Name: "broker", Text: "Restart the broker first", run: (*panel).restartAndRelay, Paid: true,
		Hint: "Then the relay publishes the event once more."},
}

var errNoButton = errors.New("again: the form has no button of the panel")

// press does what the form's button names, for the visitor's own order, and leads back to its page.
func (p *panel) press(c echo.Context) error {
	order, err := p.shop.OwnOrder(c)
	if err != nil {
		return err
	}
	if held, err := strconv.Atoi(c.FormValue("held")); err == nil {
		p.heldBack(order.ID, held)
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), pressTimeout)
	defer cancel()
	if name := c.FormValue("button"); name != "" {
		pressed, err := find(name)
		if err != nil {
			return echo.ErrBadRequest
		}
		p.keep(order.ID, p.run(ctx, order, pressed))
	}
	if c.Request().Header.Get("Hx-Request") != "" || c.FormValue("button") == "" {
		return c.NoContent(http.StatusNoContent) // the order's stream shows the rest
	}
	return c.Redirect(http.StatusSeeOther, "/orders/"+order.ID.String()+"#again")
}

func find(name string) (button, error) {
	for _, b := range buttons {
		if b.Name == name {
			return b, nil
		}
	}
	return button{}, errNoButton
}

// maxHeld bounds the presses that one form reports.
const maxHeld = 100

// heldBack records presses that the page's script has not sent.
func (p *panel) heldBack(order uuid.UUID, times int) {
	for range min(times, maxHeld) {
		p.shop.Recorder.Stopped(order, timeline.Stop{Kind: timeline.HeldBack})
	}
}

// run returns what came of the button, and waits until the twins are in the timeline.
func (p *panel) run(ctx context.Context, order orders.Order, b button) result {
	before, err := p.stopped(ctx, order.ID)
	if err == nil && b.Paid && order.Status != orders.Paid && order.Status != orders.Paying {
		return result{Button: b.Text, Note: "This order has no payment to repeat."}
	}
	var r result
	if err == nil {
		r, err = b.run(p, ctx, order)
	}
	r.Button = b.Text
	if err != nil {
		p.log.WarnContext(ctx, "the panel could not send it again", "order_id", order.ID, "button", b.Name,
			"error", err)
		r.Note = "That did not work: a server is down or slow. Please try it again."
		return r
	}
	if r.Sent > 0 {
		p.awaitStopped(ctx, order.ID, before+int64(r.Sent))
	}
	return r
}

func (p *panel) stopped(ctx context.Context, order uuid.UUID) (int64, error) {
	way, err := p.shop.Timeline.Way(ctx, order)
	return timeline.Stopped(way), err
}

const (
	// recordedWithin is how long a page waits for its twins: the recorder writes five times a
	// second, and a broker that was restarted gets its clients back within seconds.
	recordedWithin = 8 * time.Second
	lookEvery      = 50 * time.Millisecond
)

// awaitStopped returns when that many twins are recorded, or when the page has waited long enough.
func (p *panel) awaitStopped(ctx context.Context, order uuid.UUID, want int64) {
	ctx, cancel := context.WithTimeout(ctx, recordedWithin)
	defer cancel()
	for {
		if n, err := p.stopped(ctx, order); err == nil && n >= want {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookEvery):
		}
	}
}

func (p *panel) sendOrder(ctx context.Context, order orders.Order) (result, error) {
	return p.place(ctx, order, 1, 0)
}

func (p *panel) sendFifty(ctx context.Context, order orders.Order) (result, error) {
	return p.place(ctx, order, fifty, 0)
}

func (p *panel) sendOtherBasket(ctx context.Context, order orders.Order) (result, error) {
	return p.place(ctx, order, 1, 1)
}

// place sends the order's own request that many times, with more units of the first product.
func (p *panel) place(ctx context.Context, order orders.Order, times int, more int64) (result, error) {
	var key string
	err := p.pool.QueryRow(ctx, "SELECT idempotency_key FROM orders WHERE id = $1", order.ID).Scan(&key)
	if err != nil {
		return result{}, fmt.Errorf("read the order's key: %w", err)
	}
	// As the checkout page sends it.
	body := orders.PlaceOrder{Email: order.Email, ExpectedTotal: &order.Total, Currency: order.Currency}
	for _, line := range order.Lines {
		body.Lines = append(body.Lines, orders.LineRequest{SKU: line.SKU, Quantity: line.Quantity})
	}
	body.Lines[0].Quantity += more
	again, err := p.asCustomer(ctx, order.CustomerID, "/v1/orders", key, body)
	if err != nil {
		return result{}, err
	}
	requests := make([]request, times)
	for i := range requests {
		requests[i] = again
	}
	return p.sendRequests(ctx, requests...)
}

func (p *panel) sendRequests(ctx context.Context, requests ...request) (result, error) {
	got, err := p.sendAll(ctx, p.servers().Nodes, requests...)
	return result{Sent: len(requests), Answers: got}, err
}

// payAgain repeats the latest charge under its own key, and under the key that the page of a tab
// opened since would have.
func (p *panel) payAgain(ctx context.Context, order orders.Order) (result, error) {
	var key, method string
	var charges int
	err := p.pool.QueryRow(ctx, `
		SELECT idempotency_key, payment_method, count(*) OVER () FROM charges
		WHERE order_id = $1 AND customer_id = $2 ORDER BY created_at DESC, id DESC LIMIT 1`,
		order.ID, order.CustomerID).Scan(&key, &method, &charges)
	if err != nil {
		return result{}, fmt.Errorf("read the payment's key: %w", err)
	}
	var requests []request
	for _, key := range []string{key, fmt.Sprintf("pay-%s-%d", order.ID, charges)} {
		again, err := p.asCustomer(ctx, order.CustomerID, "/v1/orders/"+order.ID.String()+"/charges", key,
			map[string]string{"payment_method": method})
		if err != nil {
			return result{}, err
		}
		requests = append(requests, again)
	}
	return p.sendRequests(ctx, requests...)
}

func (p *panel) repeatEvent(ctx context.Context, order orders.Order) (result, error) {
	var id string
	var payload []byte
	err := p.pool.QueryRow(ctx, `
		SELECT e.id, e.payload FROM provider_events e JOIN charges c ON c.id = e.charge_id
		WHERE c.order_id = $1 ORDER BY e.received_at DESC, e.id DESC LIMIT 1`, order.ID).Scan(&id, &payload)
	if errors.Is(err, pgx.ErrNoRows) {
		return result{Note: "The provider has sent no event about this order yet."}, nil
	}
	if err != nil {
		return result{}, fmt.Errorf("read the provider's event: %w", err)
	}
	again, err := asProvider(p.servers().WebhookSecret, webhookPath, id, payload)
	if err != nil {
		return result{}, err
	}
	return p.sendRequests(ctx, again)
}
