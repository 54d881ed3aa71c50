package orders

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/onceshop/onceshop/internal/orders/internal/ordersdb"
	"github.com/onceshop/onceshop/internal/pg"
)

// ErrTooManyUnpaid reports that the customer or the guests of the network have too many orders that
// are not paid yet. Nothing was reserved.
var ErrTooManyUnpaid = errors.New("orders: too many unpaid orders")

// UnpaidRetry is when a client may try again after ErrTooManyUnpaid. Orders expire much later, but
// the client can pay or cancel one.
const UnpaidRetry = time.Minute

// UnpaidLimit bounds how many unpaid orders may be open at once: of the customer, and of all guests
// of the network From, if that is not empty. Zero means any number.
type UnpaidLimit struct {
	Customer int
	From     string
	Network  int
}

// unpaid counts open orders, by customer id and by network.
type unpaid map[string]int64

// over reports whether one more order is too many.
func (u unpaid) over(d draft) bool {
	for name, most := range d.limits() {
		if u[name] >= int64(most) {
			return true
		}
	}
	return false
}

func (u unpaid) add(d draft) {
	for name := range d.limits() {
		u[name]++
	}
}

// limits returns the limits that hold for the order.
func (d draft) limits() map[string]int {
	if d.unpaid.Customer == 0 && d.unpaid.Network == 0 {
		return nil
	}
	limits := map[string]int{}
	if d.unpaid.Customer > 0 {
		limits[d.order.CustomerID.String()] = d.unpaid.Customer
	}
	if d.unpaid.Network > 0 && d.unpaid.From != "" {
		limits[d.unpaid.From] = d.unpaid.Network
	}
	return limits
}

// countUnpaidTx queues the count of what the drafts' limits are about. Until the transaction ends,
// no other one can place an order under the same limits, so a burst cannot exceed them. See
// docs/decisions.md, D92.
func countUnpaidTx(ctx context.Context, tx *pg.Pipe, drafts []draft) (*[]ordersdb.CountUnpaidRow, error) {
	var params ordersdb.CountUnpaidParams
	names := map[string]bool{}
	for _, d := range drafts {
		for name, most := range d.limits() {
			params.Most = max(params.Most, int32(most)) //nolint:gosec // a setting
			if names[name] {
				continue
			}
			names[name] = true
			if name == d.unpaid.From {
				params.PlacedFroms = append(params.PlacedFroms, name)
			} else {
				params.CustomerIds = append(params.CustomerIds, d.order.CustomerID)
			}
		}
	}
	if len(names) == 0 {
		return &[]ordersdb.CountUnpaidRow{}, nil
	}
	db := ordersdb.New(tx)
	if err := db.LockUnpaid(ctx, slices.Sorted(maps.Keys(names))); err != nil {
		return nil, fmt.Errorf("wait for other orders under the same limits: %w", err)
	}
	return pg.Later(tx, db.CountUnpaid, params), nil
}
