package web

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/accounts"
)

const (
	adminCookie = "shop_admin"
	// adminAge is how long an operator stays signed in. Sessions are not stored, so they cannot be
	// revoked earlier.
	adminAge = 8 * time.Hour
)

// adminOnly allows only operators, and in the demo every visitor. It redirects other visitors to
// the sign-in page, or answers 403 to a form.
func (w *Web) adminOnly(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if w.Demo || w.isAdmin(c) {
			return next(c)
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

func (w *Web) isAdmin(c echo.Context) bool {
	_, ok := w.session(c)
	return ok
}

// session returns the operator's account, if the request has a session that has not ended. The end
// and the account are the signed value.
func (w *Web) session(c echo.Context) (operator uuid.UUID, ok bool) {
	text, ok := w.cookie(c, adminCookie, adminCookie)
	end, account, _ := strings.Cut(text, " ")
	ends, err := strconv.ParseInt(end, 10, 64)
	operator, wrong := uuid.Parse(account)
	return operator, ok && err == nil && wrong == nil && time.Now().Before(time.Unix(ends, 0))
}

// operator returns the account and the name that an operator acts under. In the demo, a visitor
// without a session acts as the demo's admin.
func (w *Web) operator(c echo.Context) (id uuid.UUID, name string, err error) {
	ctx := c.Request().Context()
	id, ok := w.session(c)
	if !ok {
		demo, err := w.Accounts.Authenticate(ctx, accounts.DemoAdmin)
		if err != nil {
			return uuid.Nil, "", err
		}
		id = demo.ID
	}
	name, err = w.Accounts.Email(ctx, id)
	return id, name, err
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
	customer, err := w.Accounts.Authenticate(c.Request().Context(), strings.TrimSpace(form.Get("token")))
	if errors.Is(err, accounts.ErrUnauthorized) || err == nil && !customer.Admin {
		w.Log.WarnContext(c.Request().Context(), "an operator's sign-in was refused", "peer", c.RealIP())
		return w.render(c, http.StatusForbidden, loginPage,
			page{Title: "Sign in", Content: login{Next: next, Wrong: true}})
	}
	if err != nil {
		return err
	}
	w.Log.InfoContext(c.Request().Context(), "an operator signed in", "customer_id", customer.ID)
	ends := strconv.FormatInt(time.Now().Add(adminAge).Unix(), 10)
	w.setAdminCookie(c, w.Signer.Sign(adminCookie, ends+" "+customer.ID.String()), adminAge)
	return seeOther(c, next)
}

func (w *Web) logOut(c echo.Context) error {
	w.setAdminCookie(c, "", -time.Second)
	return seeOther(c, "/")
}

// setAdminCookie sets a SameSite=Strict cookie. Unlike the cart, a session must not be sent when
// the visitor follows a link from another site.
func (w *Web) setAdminCookie(c echo.Context, value string, age time.Duration) {
	//nolint:gosec // the demo runs without https
	c.SetCookie(&http.Cookie{
		Name:     w.cookieName(adminCookie),
		Value:    value,
		Path:     "/",
		MaxAge:   int(age.Seconds()),
		HttpOnly: true,
		Secure:   w.Secure,
		SameSite: http.SameSiteStrictMode,
	})
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
