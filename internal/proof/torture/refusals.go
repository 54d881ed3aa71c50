package torture

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ended are the states in which an order cannot be paid any more.
var ended = []string{"canceled", "expired", "refunded"}

// truths are what a refused charge or cancellation tells of its order, and the ends that an order
// can have after that. An order that was paid can be refunded later.
var truths = map[string]struct {
	ends       []string
	safeNewKey bool
}{
	"order_not_payable":    {ended, true},
	"order_not_cancelable": {ended, true},
	"order_already_paid":   {[]string{"paid", "refunded"}, false},
	"charge_in_progress":   {[]string{"placed", "paying", "paid", "canceled", "expired", "refunded"}, false},
}

// compareRefusals holds each refusal against its order's end, and against the charges of the order
// that it names.
func (r *run) compareRefusals(ctx context.Context) error {
	type end struct {
		status   string
		charges  []string
		declined int64
	}
	rows, err := r.servers.postgres.direct().Query(ctx, `
		SELECT o.id::text, o.status, array_remove(array_agg(c.id::text), NULL),
			count(*) FILTER (WHERE c.status = 'declined')
		FROM orders o LEFT JOIN charges c ON c.order_id = o.id GROUP BY o.id`)
	if err != nil {
		return fmt.Errorf("read the ends of the orders: %w", err)
	}
	ends := map[string]end{}
	var id string
	var e end
	if _, err := pgx.ForEachRow(rows, []any{&id, &e.status, &e.charges, &e.declined}, func() error {
		ends[id] = e
		e.charges = nil
		return nil
	}); err != nil {
		return fmt.Errorf("read the ends of the orders: %w", err)
	}
	for _, asked := range r.world.intents {
		if asked.op != charging && asked.op != canceling {
			continue
		}
		order := strings.Split(asked.path, "/")[3]
		is := ends[order]
		for _, c := range asked.calls {
			truth, judged := truths[c.code]
			switch {
			case c.code == "too_many_attempts" && is.declined < payAttempts:
				r.violate("refusal", order,
					fmt.Sprintf("answered too_many_attempts after %d declined charges", is.declined))
			case judged && (!slices.Contains(truth.ends, is.status) || c.safeNewKey != truth.safeNewKey):
				r.violate("refusal", order, fmt.Sprintf("answered %s, safe_new_key %t, and the order ended as %s",
					c.code, c.safeNewKey, is.status))
			case c.chargeID != "" && !slices.Contains(is.charges, c.chargeID):
				r.violate("refusal", order,
					fmt.Sprintf("answered %s because of charge %s, which the order does not have", c.code, c.chargeID))
			}
		}
	}
	return nil
}

// payAttempts is the shop's default of SHOP_PAY_ATTEMPTS.
const payAttempts = 10
