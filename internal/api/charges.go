package api

import (
	"context"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
)

func (a *API) chargeOrder(c echo.Context) error {
	key, err := keyOf(c)
	if err != nil {
		return err
	}
	orderID, err := pathID(c, orders.ErrNotFound)
	if err != nil {
		return err
	}
	var body struct {
		PaymentMethod string `json:"payment_method"`
	}
	if err := decode(c, &body); err != nil {
		return err
	}
	command := payments.ChargeOrder{
		CustomerID:    customerOf(c).ID,
		Key:           key,
		OrderID:       orderID,
		PaymentMethod: body.PaymentMethod,
	}
	return a.once(c, "charges", key, command.Fingerprint(), "/v1/charges/",
		func(ctx context.Context) (dedup.Answer, error) {
			return a.Payments.Charge(ctx, command)
		})
}

func (a *API) getCharge(c echo.Context) error {
	id, err := pathID(c, payments.ErrNotFound)
	if err != nil {
		return err
	}
	charge, err := a.Payments.Get(c.Request().Context(), id)
	if err != nil {
		return err
	}
	if customer := customerOf(c); charge.CustomerID != customer.ID && !customer.Admin {
		return payments.ErrNotFound
	}
	return c.JSON(http.StatusOK, charge)
}

func (a *API) listRefunds(c echo.Context) error {
	id, err := pathID(c, payments.ErrNotFound)
	if err != nil {
		return err
	}
	charge, err := a.Payments.Get(c.Request().Context(), id)
	if err != nil {
		return err
	}
	if customer := customerOf(c); charge.CustomerID != customer.ID && !customer.Admin {
		return payments.ErrNotFound
	}
	refunds, err := a.Payments.Refunds(c.Request().Context(), id)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]any{"refunds": refunds})
}

func (a *API) getRefund(c echo.Context) error {
	id, err := pathID(c, payments.ErrNotFound)
	if err != nil {
		return err
	}
	refund, charge, err := a.Payments.GetRefund(c.Request().Context(), id)
	if err != nil {
		return err
	}
	if customer := customerOf(c); charge.CustomerID != customer.ID && !customer.Admin {
		return payments.ErrNotFound
	}
	return c.JSON(http.StatusOK, refund)
}

func (a *API) refundCharge(c echo.Context) error {
	key, err := keyOf(c)
	if err != nil {
		return err
	}
	chargeID, err := pathID(c, payments.ErrNotFound)
	if err != nil {
		return err
	}
	var body struct {
		Amount *int64 `json:"amount"`
		Reason string `json:"reason"`
	}
	if err := decodeOptional(c, &body); err != nil {
		return err
	}
	command := payments.RefundCharge{
		CustomerID: customerOf(c).ID,
		Key:        key,
		ChargeID:   chargeID,
		Amount:     body.Amount,
		Reason:     body.Reason,
	}
	return a.once(c, "refunds", key, command.Fingerprint(), "", func(ctx context.Context) (dedup.Answer, error) {
		return a.Payments.Refund(ctx, command)
	})
}

func (a *API) cancelOrder(c echo.Context) error {
	key, err := keyOf(c)
	if err != nil {
		return err
	}
	orderID, err := pathID(c, orders.ErrNotFound)
	if err != nil {
		return err
	}
	if err := decodeOptional(c, &struct{}{}); err != nil {
		return err
	}
	command := payments.CancelOrder{CustomerID: customerOf(c).ID, Key: key, OrderID: orderID,
		Admin: customerOf(c).Admin}
	return a.once(c, "cancellations", key, command.Fingerprint(), "", func(ctx context.Context) (dedup.Answer, error) {
		return a.Payments.Cancel(ctx, command)
	})
}
