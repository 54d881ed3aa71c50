package web

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/accounts"
)

// adminCookie holds a session. Unlike the cart, it is not sent when the visitor follows a link from
// another site.
const adminCookie = "shop_admin"

// adminOnly allows only operators, and in the demo every visitor. It redirects other visitors to
// the sign-in page, or answers 403 to a form.
func (w *Web) adminOnly(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		_, err := w.session(c)
		switch {
		case err == nil, w.Demo && errors.Is(err, accounts.ErrUnauthorized):
			return next(c)
		case !errors.Is(err, accounts.ErrUnauthorized):
			return err
		}
		if method := c.Request().Method; method == http.MethodGet || method == http.MethodHead {
			return seeOther(c, "/admin/login?next="+url.QueryEscape(c.Request().URL.Path))
		}
		const title = "Operators only"
		refusal := failure{http.StatusForbidden, title,
			"Nothing was changed. Your session may have ended: sign in at /admin and try again."}
		return w.render(c, http.StatusForbidden, errorPage, page{Title: title, Content: refusal})
	}
}

const operatorKey = "operator"

// session returns the operator's account. It returns accounts.ErrUnauthorized if the request has no
// session, or one that has ended.
func (w *Web) session(c echo.Context) (accounts.Customer, error) {
	if operator, ok := c.Get(operatorKey).(accounts.Customer); ok {
		return operator, nil
	}
	id, ok := w.cookie(c, adminCookie, adminCookie)
	if !ok {
		return accounts.Customer{}, accounts.ErrUnauthorized
	}
	operator, err := w.Accounts.Session(c.Request().Context(), id)
	if err == nil {
		c.Set(operatorKey, operator)
	}
	return operator, err
}

// OperatorOf returns the operator that a handler of this request has found.
func (w *Web) OperatorOf(c echo.Context) (operator accounts.Customer, ok bool) {
	operator, ok = c.Get(operatorKey).(accounts.Customer)
	return operator, ok
}

// isAdmin reports whether the request has an operator's session.
func (w *Web) isAdmin(c echo.Context) bool {
	_, err := w.session(c)
	return err == nil
}

// operator returns the account and the name that an operator acts under. In the demo, a visitor
// without a session acts as the demo's admin. An account whose address was erased is named by its
// id.
func (w *Web) operator(c echo.Context) (id uuid.UUID, name string, err error) {
	ctx := c.Request().Context()
	operator, err := w.session(c)
	if w.Demo && errors.Is(err, accounts.ErrUnauthorized) {
		operator, err = w.Accounts.Authenticate(ctx, accounts.DemoAdmin)
	}
	if err != nil {
		return uuid.Nil, "", err
	}
	c.Set(operatorKey, operator)
	name, err = w.Accounts.Email(ctx, operator.ID)
	return operator.ID, cmp.Or(name, operator.ID.String()), err
}

var loginPage = parsePage("admin_login.html")

// login is the sign-in form. Next is the page to show after it.
type login struct {
	Next  string
	Wrong bool
}

func (w *Web) showLogin(c echo.Context) error {
	next := w.operatorPage(c.QueryParam("next"))
	if w.Demo || w.isAdmin(c) {
		return seeOther(c, next)
	}
	return w.render(c, http.StatusOK, loginPage, page{Title: "Sign in", Content: login{Next: next}})
}

// logIn exchanges an admin's API token for a session.
func (w *Web) logIn(c echo.Context) error {
	form, err := postForm(c)
	if err != nil {
		return err
	}
	next := w.operatorPage(form.Get("next"))
	ctx := c.Request().Context()
	session, operator, err := w.Accounts.OpenSession(ctx, strings.TrimSpace(form.Get("token")))
	if errors.Is(err, accounts.ErrUnauthorized) {
		w.Log.WarnContext(ctx, "an operator's sign-in was refused", "peer", c.RealIP())
		return w.render(c, http.StatusForbidden, loginPage,
			page{Title: "Sign in", Content: login{Next: next, Wrong: true}})
	}
	if err != nil {
		return err
	}
	c.Set(operatorKey, operator)
	w.Log.InfoContext(ctx, "an operator signed in", "customer_id", operator.ID, "peer", c.RealIP())
	w.setCookie(c, adminCookie, w.Signer.Sign(adminCookie, session), accounts.SessionAge, http.SameSiteStrictMode)
	return seeOther(c, next)
}

func (w *Web) logOut(c echo.Context) error {
	if id, ok := w.cookie(c, adminCookie, adminCookie); ok {
		if err := w.Accounts.CloseSession(c.Request().Context(), id); err != nil {
			return err
		}
	}
	w.setCookie(c, adminCookie, "", gone, http.SameSiteStrictMode)
	return seeOther(c, "/")
}

// operatorPage returns the page to show after a sign-in: next if it is a page for operators, or
// /admin.
func (w *Web) operatorPage(next string) string {
	prefixes := []string{"/admin"}
	for _, section := range w.Sections {
		prefixes = append(prefixes, section.Path)
	}
	for _, prefix := range prefixes {
		if next == prefix || strings.HasPrefix(next, prefix+"/") {
			return next
		}
	}
	return "/admin"
}
