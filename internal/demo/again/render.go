package again

import (
	"bytes"
	"context"
	"fmt"
	"html/template"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/orders"
)

var panelTemplate = template.Must(template.New("panel.html").Funcs(template.FuncMap{
	"count": count, "one": one,
}).ParseFS(files, "panel.html"))

// view is the content of the panel.
type view struct {
	score
	OrderID uuid.UUID
	// Attempts are the first one, which had the effects, and those that were stopped.
	Attempts, Stopped int64
	// PaidFor is whether the order was paid: it has a capture and a receipt then.
	PaidFor bool
	// CanPay is whether a payment has begun, which can be repeated.
	CanPay  bool
	Buttons []button
	Latest  *result
}

func (p *panel) render(ctx context.Context, order orders.Order) (template.HTML, error) {
	v := view{OrderID: order.ID, Buttons: buttons}
	var err error
	if v.score, err = p.score(ctx, order.ID); err != nil {
		return "", err
	}
	if v.Stopped, err = p.stopped(ctx, order.ID); err != nil {
		return "", err
	}
	v.Attempts = v.Stopped + 1
	v.PaidFor = order.Status == orders.Paid || order.Status == orders.Refunded
	v.CanPay = order.Status == orders.Paid || order.Status == orders.Paying
	if latest, ok := p.latest(order.ID); ok {
		v.Latest = &latest
	}
	var html bytes.Buffer
	if err := panelTemplate.Execute(&html, v); err != nil {
		return "", fmt.Errorf("render the panel: %w", err)
	}
	return template.HTML(html.String()), nil //nolint:gosec // html/template made it
}

// count is a witness's count as text.
func count(n int) string {
	if n < 0 {
		return "?"
	}
	return fmt.Sprint(n)
}

// one returns the class of a count: right if it is what happens once.
func one(n int, happened bool) string {
	switch {
	case n < 0, n == 0 && !happened:
		return "open"
	case n == 1:
		return "right"
	case n == 0:
		return "open" // on its way
	default:
		return "twice"
	}
}
