package web

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/internal/ratelimit"
)

var checkoutPage = parsePage("checkout.html")

// askWithin is how long after an order the same basket under another key may be an accident.
const askWithin = 10 * time.Minute

// checkout is the checkout form, shown and submitted. Key is the key of the cart for which the form
// was shown, which may have changed since.
type checkout struct {
	Key    uuid.UUID
	Email  string
	Method string
	// Again is the order that the buyer has confirmed to repeat.
	Again uuid.UUID
	// Total and Currency are what the button showed. A form without them was not made by the page.
	Total    *int64
	Currency string
}

// IsAgain reports whether the buyer has confirmed a second order.
func (f checkout) IsAgain() bool { return f.Again != uuid.Nil }

// checkoutView is the content of the checkout page.
type checkoutView struct {
	checkout
	Basket      basket
	Methods     choice
	EmailError  string
	MethodError string
}

func (w *Web) showCheckout(c echo.Context) error {
	v := w.visitor(c)
	if done, err := w.leaveOrdered(c, v); done || err != nil {
		return err
	}
	return w.renderCheckout(c, http.StatusOK, v, "", checkoutView{checkout: checkout{Email: v.Cart.Email}})
}

// renderCheckout shows the form for the visitor's current cart. It redirects to the cart if that
// cannot be ordered.
func (w *Web) renderCheckout(c echo.Context, status int, v visitor, notice string, view checkoutView) error {
	b, err := w.basket(c.Request().Context(), v.Cart)
	if err != nil {
		return err
	}
	if len(b.Lines) == 0 || b.Blocked {
		return seeOther(c, "/cart")
	}
	view.Key, view.Basket, view.Methods = v.Cart.Key, b, w.methods(view.Method)
	return w.render(c, status, checkoutPage, page{Title: "Checkout", Notice: notice, Content: view})
}

func readCheckout(c echo.Context) (checkout, error) {
	form, err := postForm(c)
	if err != nil {
		return checkout{}, err
	}
	key, err := uuid.Parse(form.Get("key"))
	if err != nil {
		key = uuid.Nil // a key that no cart has
	}
	again, err := uuid.Parse(form.Get("again"))
	if err != nil {
		again = uuid.Nil
	}
	f := checkout{
		Key:      key,
		Email:    strings.TrimSpace(form.Get("email")),
		Method:   form.Get("payment_method"),
		Again:    again,
		Currency: form.Get("currency"),
	}
	if text := form.Get("total"); text != "" {
		total, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return checkout{}, problem.InvalidError{Field: "total", Reason: "must be what the checkout page put there"}
		}
		f.Total = &total
	}
	return f, nil
}

// submitCheckout places the order of the form's key, unless it exists, and makes the first attempt
// to pay.
func (w *Web) submitCheckout(c echo.Context) error {
	f, err := readCheckout(c)
	if err != nil {
		return err
	}
	v := w.visitor(c)
	id, err := w.placed(c.Request().Context(), v, f)
	if errors.Is(err, orders.ErrNotFound) {
		var held bool
		if held, err = w.hold(c, v, f); held {
			return err
		}
		if err == nil {
			id, err = w.place(c, v, f)
		}
	}
	switch {
	case errors.Is(err, errOtherTotal):
		return seeOther(c, "/orders/"+id.String()+"?notice=outdated")
	case err != nil:
		return w.placeFailed(c, v, f, err)
	}
	next, err := w.pay(c, v.ID, id, 0, f.Method)
	if err != nil {
		return w.askAgain(c, err, f.again())
	}
	if v.Cart.Key == f.Key {
		w.dropCart(c)
	}
	return seeOther(c, next)
}

// hold answers a form that must not become an order as it is. It reports whether it did.
func (w *Web) hold(c echo.Context, v visitor, f checkout) (bool, error) {
	switch {
	case len(v.Cart.Lines) == 0:
		return true, seeOther(c, "/cart?notice=empty")
	case f.Key != v.Cart.Key:
		return true, w.renderCheckout(c, http.StatusConflict, v,
			"Your cart was changed in another tab. Nothing was ordered: please review it.",
			checkoutView{checkout: f})
	case !w.offers(f.Method):
		return true, w.renderCheckout(c, http.StatusUnprocessableEntity, v, "",
			checkoutView{checkout: f, MethodError: "Please choose a payment method."})
	}
	twin, err := w.Orders.PlacedLately(c.Request().Context(), v.ID, dedup.Key(f.Key.String()), v.Cart.Lines,
		time.Now().Add(-askWithin))
	switch {
	case errors.Is(err, orders.ErrNotFound):
		return false, nil
	case err != nil, twin.ID == f.Again:
		return false, err
	}
	return true, w.askTwice(c, twin, f)
}

// errOtherTotal reports an order that stands at another total than the form showed.
var errOtherTotal = errors.New("web: the order has another total than the form")

// placed returns the order of the form's key, or orders.ErrNotFound. With errOtherTotal it returns
// the order too.
func (w *Web) placed(ctx context.Context, v visitor, f checkout) (uuid.UUID, error) {
	id, err := w.Orders.FindByKey(ctx, v.ID, dedup.Key(f.Key.String()))
	if err != nil || f.Total == nil {
		return id, err
	}
	order, err := w.Orders.Get(ctx, id)
	if err == nil && (order.Total != *f.Total || order.Currency != f.Currency) {
		err = errOtherTotal
	}
	return id, err
}

// place orders the visitor's cart under its key.
func (w *Web) place(c echo.Context, v visitor, f checkout) (uuid.UUID, error) {
	command := orders.PlaceOrder{
		CustomerID:    v.ID,
		Key:           dedup.Key(v.Cart.Key.String()),
		Email:         f.Email,
		Lines:         v.Cart.Lines,
		ExpectedTotal: f.Total,
		Currency:      f.Currency,
		Unpaid:        w.Unpaid,
	}
	command.Unpaid.From = w.network(c)
	if err := command.Validate(); err != nil {
		return uuid.Nil, err
	}
	if err := w.Accounts.EnsureGuest(c.Request().Context(), v.ID); err != nil {
		return uuid.Nil, err
	}
	answer, err := w.once(c, "orders", v.ID, command.Key, command.Fingerprint(),
		func(ctx context.Context) (dedup.Answer, error) {
			return w.Orders.Place(ctx, command)
		})
	if errors.Is(err, dedup.ErrKeyReused) || errors.Is(err, dedup.ErrErased) {
		// The same form with another email address or total came first, or its data was erased.
		return w.placed(c.Request().Context(), v, f)
	}
	return answer.ID, err
}

// network identifies where a guest's order comes from. It is a keyed hash, which does not reveal
// the address.
func (w *Web) network(c echo.Context) string {
	signed := w.Signer.Sign("network of an order", ratelimit.Network(c.RealIP()).String())
	sum := sha256.Sum256([]byte(signed))
	return hex.EncodeToString(sum[:16])
}

// placeFailed answers a form whose order could not be placed. It keeps the visitor's input.
func (w *Web) placeFailed(c echo.Context, v visitor, f checkout, err error) error {
	invalid, isInvalid := errors.AsType[problem.InvalidError](err)
	_, short := errors.AsType[orders.OutOfStockError](err)
	_, unknown := errors.AsType[orders.UnknownSKUError](err)
	price, repriced := errors.AsType[orders.PriceChangedError](err)
	switch {
	case isInvalid && invalid.Field == "email":
		return w.renderCheckout(c, http.StatusUnprocessableEntity, v, "", checkoutView{checkout: f,
			EmailError: "Please enter a valid email address, such as alice@example.com. We need it to send your " +
				"receipt."})
	case short, unknown:
		v.Cart.Email = f.Email
		if err := w.saveCart(c, v); err != nil {
			return err
		}
		return seeOther(c, "/cart?notice=short")
	case repriced:
		return w.renderCheckout(c, http.StatusConflict, v, "The price has changed: your order now costs "+
			money.Format(price.Total, price.Currency)+". Nothing was ordered or charged. If you agree, please press "+
			"the button again.", checkoutView{checkout: f})
	case errors.Is(err, orders.ErrTooManyUnpaid):
		c.Response().Header().Set("Retry-After", strconv.Itoa(int(orders.UnpaidRetry.Seconds())))
		return w.renderOrders(c, http.StatusTooManyRequests, v, "Nothing was ordered: too many orders from this "+
			"browser or network are still unpaid. Please pay for one of them, or try again when one has "+
			"expired. Your cart is unchanged.", nil)
	case isInvalid && strings.HasPrefix(invalid.Field, "lines"):
		return seeOther(c, "/cart") // the cart has changed since, and its page shows how
	case isInvalid:
		return err
	}
	return w.askAgain(c, err, f.again())
}

func (f checkout) again() retry {
	fields := map[string]string{"key": f.Key.String(), "email": f.Email, "payment_method": f.Method}
	if f.IsAgain() {
		fields["again"] = f.Again.String()
	}
	if f.Total != nil {
		fields["total"], fields["currency"] = strconv.FormatInt(*f.Total, 10), f.Currency
	}
	return retry{Action: "/checkout", Fields: fields}
}

var againPage = parsePage("again.html")

// askTwice asks the buyer to confirm a second order of the same basket. The confirmation is valid
// for this twin only.
func (w *Web) askTwice(c echo.Context, twin orders.Order, f checkout) error {
	f.Again = twin.ID
	content := struct {
		retry
		Order orders.Order
		Ago   string
	}{f.again(), twin, ago(time.Since(twin.CreatedAt))}
	return w.render(c, http.StatusConflict, againPage, page{Title: "Once more?", Content: content})
}

func ago(d time.Duration) string {
	switch minutes := int(d.Minutes()); minutes {
	case 0:
		return "a moment ago"
	case 1:
		return "a minute ago"
	default:
		return strconv.Itoa(minutes) + " minutes ago"
	}
}
