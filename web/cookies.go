package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
)

const (
	guestCookie = "shop_guest"
	cartCookie  = "shop_cart"

	guestAge = 365 * 24 * time.Hour
	cartAge  = 30 * 24 * time.Hour
	// gone is the age of a cookie that the browser is to drop.
	gone = -time.Second
)

// visitor is the guest and the cart of the request's signed cookies.
type visitor struct {
	// ID is the guest's customer id, or uuid.Nil before the first change of a cart.
	ID   uuid.UUID
	Cart cart
}

// visitor reads the cookies. It ignores cookies that are forged or of another shop.
func (w *Web) visitor(c echo.Context) visitor {
	text, ok := w.cookie(c, guestCookie, guestCookie)
	id, err := uuid.Parse(text)
	if !ok || err != nil {
		return visitor{}
	}
	v := visitor{ID: id}
	if text, ok = w.cookie(c, cartCookie, cartPurpose(id)); ok {
		if err := json.Unmarshal([]byte(text), &v.Cart); err != nil {
			v.Cart = cart{}
		}
	}
	return v
}

// VisitorID returns the customer that the request acts for: an operator, or the guest of the signed
// cookie. It is uuid.Nil for a new visitor.
func (w *Web) VisitorID(c echo.Context) uuid.UUID {
	if operator, ok := w.OperatorOf(c); ok {
		return operator.ID
	}
	return w.visitor(c).ID
}

// saveGuest gives the visitor an id. Carts are signed for an id, so a checkout always has one.
// Otherwise duplicates of a checkout could each create a guest.
func (w *Web) saveGuest(c echo.Context) (uuid.UUID, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.Nil, fmt.Errorf("make a guest id: %w", err)
	}
	w.setCookie(c, guestCookie, w.Signer.Sign(guestCookie, id.String()), guestAge, http.SameSiteLaxMode)
	return id, nil
}

func (w *Web) saveCart(c echo.Context, v visitor) error {
	if len(v.Cart.Lines) == 0 {
		w.dropCart(c)
		return nil
	}
	text, err := json.Marshal(v.Cart)
	if err != nil {
		return fmt.Errorf("encode the cart: %w", err)
	}
	w.setCookie(c, cartCookie, w.Signer.Sign(cartPurpose(v.ID), string(text)), cartAge, http.SameSiteLaxMode)
	return nil
}

func (w *Web) dropCart(c echo.Context) {
	w.setCookie(c, cartCookie, "", gone, http.SameSiteLaxMode)
}

func cartPurpose(guest uuid.UUID) string { return cartCookie + " of " + guest.String() }

func (w *Web) cookie(c echo.Context, name, purpose string) (string, bool) {
	cookie, err := c.Cookie(w.cookieName(name))
	if err != nil {
		return "", false
	}
	value, err := w.Signer.Verify(purpose, cookie.Value)
	return value, err == nil
}

func (w *Web) setCookie(c echo.Context, name, value string, age time.Duration, sameSite http.SameSite) {
	//nolint:gosec // the demo runs without https
	c.SetCookie(&http.Cookie{
		Name:     w.cookieName(name),
		Value:    value,
		Path:     "/",
		MaxAge:   int(age.Seconds()),
		HttpOnly: true,
		Secure:   w.Secure,
		SameSite: sameSite,
	})
}

func (w *Web) cookieName(name string) string {
	if w.Secure {
		return "__Host-" + name
	}
	return name
}
