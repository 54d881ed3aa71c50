package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/problem"
)

// Limits of a cart, which has to fit into a cookie.
const (
	maxLines    = 20
	maxQuantity = 99
)

// cart is one intent to buy. Key is the idempotency key of its order. It changes with the lines and
// for no other reason.
type cart struct {
	Key   uuid.UUID            `json:"key"`
	Lines []orders.LineRequest `json:"lines"`
	// Email is kept for the next checkout form. It does not affect Key.
	Email string `json:"email,omitempty"`
}

// with returns the cart with this quantity of a product. Zero removes it.
func (k cart) with(sku string, quantity int64) cart {
	if quantity == k.quantity(sku) {
		return k
	}
	lines := slices.Clone(k.Lines)
	at := slices.IndexFunc(lines, func(l orders.LineRequest) bool { return l.SKU == sku })
	switch {
	case at < 0:
		lines = append(lines, orders.LineRequest{SKU: sku, Quantity: quantity})
	case quantity == 0:
		lines = slices.Delete(lines, at, at+1)
	default:
		lines[at].Quantity = quantity
	}
	return cart{Key: uuid.New(), Lines: lines, Email: k.Email}
}

func (k cart) quantity(sku string) int64 {
	for _, line := range k.Lines {
		if line.SKU == sku {
			return line.Quantity
		}
	}
	return 0
}

func (k cart) units() int64 {
	var sum int64
	for _, line := range k.Lines {
		sum += line.Quantity
	}
	return sum
}

var cartPage = parsePage("cart.html")

// basket is a cart with current prices and stock.
type basket struct {
	Lines    []basketLine
	Currency string
	Total    int64
	// Mixed reports products of several currencies. They have no common total.
	Mixed bool
	// Blocked reports that the cart cannot be ordered as it is.
	Blocked bool
}

type basketLine struct {
	orders.Product
	Quantity int64
	Amount   int64
	Max      int64
}

// Short reports whether there is less stock than the line needs.
func (l basketLine) Short() bool { return l.Available < l.Quantity }

func (w *Web) basket(ctx context.Context, k cart) (basket, error) {
	if len(k.Lines) == 0 {
		return basket{}, nil
	}
	products, err := w.Orders.Products(ctx)
	if err != nil {
		return basket{}, err
	}
	var b basket
	for _, line := range k.Lines {
		priced := basketLine{
			Product:  orders.Product{SKU: line.SKU, Name: line.SKU},
			Quantity: line.Quantity,
			Max:      maxQuantity,
		}
		if at := slices.IndexFunc(products, func(p orders.Product) bool { return p.SKU == line.SKU }); at >= 0 {
			priced.Product = products[at]
			priced.Amount = priced.UnitPrice * line.Quantity
			b.Mixed = b.Mixed || b.Currency != "" && b.Currency != priced.Currency
			b.Currency = priced.Currency
		}
		b.Total += priced.Amount
		b.Blocked = b.Blocked || priced.Short()
		b.Lines = append(b.Lines, priced)
	}
	if b.Mixed {
		b.Currency, b.Total, b.Blocked = "", 0, true
	}
	return b, nil
}

// cartView is the content of the cart page. With an empty cart, Ordered has the latest order, in
// case the browser lost the answer to the checkout.
type cartView struct {
	basket
	Ordered []orders.Order
}

func (w *Web) showCart(c echo.Context) error {
	v := w.visitor(c)
	if done, err := w.leaveOrdered(c, v); done || err != nil {
		return err
	}
	b, err := w.basket(c.Request().Context(), v.Cart)
	if err != nil {
		return err
	}
	content := cartView{basket: b}
	if len(b.Lines) == 0 && v.ID != uuid.Nil {
		if content.Ordered, _, err = w.Orders.List(c.Request().Context(), v.ID, 1, nil); err != nil {
			return err
		}
	}
	p := page{Title: "Your cart", Content: content}
	if sku := c.QueryParam("changed"); sku != "" {
		p.Notice = "Removed from your cart."
		if at := slices.IndexFunc(b.Lines, func(l basketLine) bool { return l.SKU == sku }); at >= 0 {
			p.Notice = fmt.Sprintf("In your cart: %d × %s.", b.Lines[at].Quantity, b.Lines[at].Name)
		}
		if len(b.Lines) > 0 && !b.Blocked {
			p.Next = link{"/checkout", "Go to checkout"}
		}
	}
	return w.render(c, http.StatusOK, cartPage, p)
}

// leaveOrdered redirects to the order and drops the cart if the cart was already ordered. This
// happens when the browser lost the answer to the checkout.
func (w *Web) leaveOrdered(c echo.Context, v visitor) (bool, error) {
	id, err := w.orderOf(c.Request().Context(), v)
	if errors.Is(err, orders.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	w.dropCart(c)
	return true, seeOther(c, "/orders/"+id.String())
}

// orderOf returns the order that was placed from the visitor's cart, or orders.ErrNotFound.
func (w *Web) orderOf(ctx context.Context, v visitor) (uuid.UUID, error) {
	if len(v.Cart.Lines) == 0 {
		return uuid.Nil, orders.ErrNotFound
	}
	return w.Orders.FindByKey(ctx, v.ID, dedup.Key(v.Cart.Key.String()))
}

// changeCart adds a product, sets its quantity or removes it.
func (w *Web) changeCart(c echo.Context) error {
	form, err := postForm(c)
	if err != nil {
		return err
	}
	ctx, sku := c.Request().Context(), form.Get("sku")
	v, err := w.buyer(c)
	if err != nil {
		return err
	}
	quantity, err := wantedQuantity(form.Get("action"), form.Get("quantity"), v.Cart.quantity(sku))
	if err != nil {
		return err
	}
	if v.Cart.quantity(sku) == 0 && quantity > 0 {
		if len(v.Cart.Lines) >= maxLines {
			return seeOther(c, "/cart?notice=full")
		}
		if err := w.mustSell(ctx, sku); err != nil {
			return err
		}
	}
	if v.ID == uuid.Nil {
		if v.ID, err = w.saveGuest(c); err != nil {
			return err
		}
	}
	v.Cart = v.Cart.with(sku, quantity)
	if err := w.saveCart(c, v); err != nil {
		return err
	}
	return seeOther(c, "/cart?changed="+url.QueryEscape(sku))
}

// buyer returns the visitor, with an empty cart if the cart was already ordered.
func (w *Web) buyer(c echo.Context) (visitor, error) {
	v := w.visitor(c)
	switch _, err := w.orderOf(c.Request().Context(), v); {
	case err == nil:
		v.Cart = cart{}
	case !errors.Is(err, orders.ErrNotFound):
		return visitor{}, err
	}
	return v, nil
}

// orderAgain adds an order's lines to the cart. The cart gets a new key.
func (w *Web) orderAgain(c echo.Context) error {
	order, err := w.ownOrder(c)
	if err != nil {
		return err
	}
	v, err := w.buyer(c)
	if err != nil {
		return err
	}
	for _, line := range order.Lines {
		now := v.Cart.quantity(line.SKU)
		if now == 0 && len(v.Cart.Lines) >= maxLines {
			return seeOther(c, "/cart?notice=full")
		}
		v.Cart = v.Cart.with(line.SKU, min(now+line.Quantity, maxQuantity))
	}
	if err := w.saveCart(c, v); err != nil {
		return err
	}
	return seeOther(c, "/cart")
}

// wantedQuantity returns the quantity after the action, given the quantity now.
func wantedQuantity(action, text string, now int64) (int64, error) {
	if action == "remove" {
		return 0, nil
	}
	quantity, err := strconv.ParseInt(text, 10, 64)
	if err != nil || quantity < 0 || quantity > maxQuantity {
		return 0, problem.InvalidError{Field: "quantity",
			Reason: fmt.Sprintf("must be a whole number from 0 to %d", maxQuantity)}
	}
	switch action {
	case "add":
		return min(now+quantity, maxQuantity), nil
	case "set":
		return quantity, nil
	}
	return 0, problem.InvalidError{Field: "action", Reason: "must be add, set or remove"}
}

func (w *Web) mustSell(ctx context.Context, sku string) error {
	products, err := w.Orders.Products(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(products, func(p orders.Product) bool { return p.SKU == sku }) {
		return problem.InvalidError{Field: "sku", Reason: "must be a product of this shop"}
	}
	return nil
}
