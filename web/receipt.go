package web

import (
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
)

var receiptPage = parsePage("receipt.html")

// receiptView is a paid order with the charge that paid it.
type receiptView struct {
	orders.Order
	Charge payments.Charge
}

// Kept returns the amount that was not refunded.
func (v receiptView) Kept() int64 { return v.Total - v.Charge.AmountRefunded }

// showReceipt shows the printable receipt of a paid order. Other orders have none.
func (w *Web) showReceipt(c echo.Context) error {
	order, err := w.ownOrder(c)
	if err != nil {
		return err
	}
	charges, err := w.Payments.OfOrder(c.Request().Context(), order.ID)
	if err != nil {
		return err
	}
	paid := slices.IndexFunc(charges, func(charge payments.Charge) bool {
		return charge.Status == payments.Succeeded && charge.Pays
	})
	if paid < 0 || (order.Status != orders.Paid && order.Status != orders.Refunded) {
		return orders.ErrNotFound
	}
	return w.render(c, http.StatusOK, receiptPage,
		page{Title: "Receipt", Content: receiptView{Order: order, Charge: charges[paid]}})
}
