package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/problem"
)

const (
	defaultPage = 20
	maxPage     = 100
)

func (a *API) listProducts(c echo.Context) error {
	products, err := a.Orders.Products(c.Request().Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]any{"products": products})
}

func (a *API) placeOrder(c echo.Context) error {
	key, err := keyOf(c)
	if err != nil {
		return err
	}
	command := orders.PlaceOrder{CustomerID: customerOf(c).ID, Key: key,
		Unpaid: orders.UnpaidLimit{Customer: a.UnpaidOrders}}
	if err := decode(c, &command); err != nil {
		return err
	}
	return a.once(c, "orders", key, command.Fingerprint(), "/v1/orders/",
		func(ctx context.Context) (dedup.Answer, error) {
			return a.Orders.Place(ctx, command)
		})
}

func (a *API) listOrders(c echo.Context) error {
	limit := defaultPage
	if text := c.QueryParam("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > maxPage {
			return problem.InvalidError{Field: "limit",
				Reason: fmt.Sprintf("must be a whole number from 1 to %d", maxPage)}
		}
	}
	var after *uuid.UUID
	if text := c.QueryParam("after"); text != "" {
		id, err := uuid.Parse(text)
		if err != nil {
			return problem.InvalidError{Field: "after", Reason: "must be the id of an order"}
		}
		after = &id
	}
	//nolint:gosec // limit is at most maxPage
	list, more, err := a.Orders.List(c.Request().Context(), customerOf(c).ID, int32(limit), after)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]any{"orders": list, "has_more": more})
}

func (a *API) getOrder(c echo.Context) error {
	order, err := a.readableOrder(c)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, order)
}

// maxTimeline is how many events a timeline has: the newest.
const maxTimeline = 1000

// getTimeline returns the order's timeline: its steps, and the duplicates that were stopped.
func (a *API) getTimeline(c echo.Context) error {
	order, err := a.readableOrder(c)
	if err != nil {
		return err
	}
	read := a.Timeline.Of
	if customerOf(c).Admin {
		read = a.Timeline.ForOperators
	}
	events, _, err := read(c.Request().Context(), order.ID, maxTimeline)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]any{"events": events})
}

// readableOrder returns the order of the path if the caller owns it or is an admin.
func (a *API) readableOrder(c echo.Context) (orders.Order, error) {
	id, err := pathID(c, orders.ErrNotFound)
	if err != nil {
		return orders.Order{}, err
	}
	order, err := a.Orders.Get(c.Request().Context(), id)
	if err != nil {
		return orders.Order{}, err
	}
	if customer := customerOf(c); order.CustomerID != customer.ID && !customer.Admin {
		return orders.Order{}, orders.ErrNotFound
	}
	return order, nil
}

func (a *API) receiveDelivery(c echo.Context) error {
	key, err := keyOf(c)
	if err != nil {
		return err
	}
	command := orders.ReceiveDelivery{CustomerID: customerOf(c).ID, Key: key}
	if err := decode(c, &command); err != nil {
		return err
	}
	return a.once(c, "deliveries", key, command.Fingerprint(), "", func(ctx context.Context) (dedup.Answer, error) {
		return a.Orders.Receive(ctx, command)
	})
}
