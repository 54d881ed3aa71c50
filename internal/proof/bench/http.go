package bench

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	"github.com/onceshop/onceshop/internal/api"
	"github.com/onceshop/onceshop/internal/orders"
)

// constantPath answers what a replay would, without looking anything up.
const constantPath = "/constant"

// server is a handler behind a real listener on this machine.
type server struct {
	address string
	http    *http.Server
	ended   chan error
}

// serve answers until the bench is closed.
func (b *bench) serve(ctx context.Context, handler http.Handler) (*server, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the bench: %w", err)
	}
	s := &server{address: listener.Addr().String(), ended: make(chan error, 1),
		http: &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}}
	go func() { s.ended <- s.http.Serve(listener) }()
	b.stops = append(b.stops, s.close)
	return s, nil
}

func (s *server) close() {
	_ = s.http.Close()
	<-s.ended //nolint:errcheck // it ends because it is closed
}

// ourHandler is the shop's JSON API, with the error handler and the middleware that a node has,
// without its log.
func ourHandler(a *api.API) http.Handler {
	e := echo.New()
	e.HTTPErrorHandler = func(err error, c echo.Context) { api.WriteError(c, err, slog.New(slog.DiscardHandler)) }
	e.Use(middleware.Recover())
	a.Register(e)
	return e
}

// naiveHandler is the naive shop behind the same framework: it knows its customers by a token too,
// and nothing of keys.
func naiveHandler(s *naiveShop) http.Handler {
	e := echo.New()
	e.Use(middleware.Recover())
	e.POST("/v1/orders", s.postOrder)
	e.POST("/v1/orders/:id/charges", s.postCharge)
	answer := []byte(`{"id":"01a209a1-5904-7607-86fe-0d10d0f6ba14","status":"placed",` +
		`"email":"buyer@example.com","currency":"EUR","total":2800,` +
		`"lines":[{"sku":"BENCH-1","name":"Thing","quantity":1,"unit_price":1400,"amount":1400},` +
		`{"sku":"BENCH-2","name":"Thing","quantity":1,"unit_price":1400,"amount":1400}],` +
		`"created_at":"2026-11-23T18:18:18.756395Z"}`)
	e.POST(constantPath, func(c echo.Context) error {
		return c.Blob(http.StatusCreated, echo.MIMEApplicationJSON, answer)
	})
	return e
}

var errNaiveToken = errors.New("no such token")

// customerOf finds whose token the request bears.
func (s *naiveShop) customerOf(c echo.Context) (id int64, err error) {
	token, ok := strings.CutPrefix(c.Request().Header.Get("Authorization"), "Bearer ")
	if !ok {
		return 0, errNaiveToken
	}
	hash := sha256.Sum256([]byte(token))
	err = s.pool.QueryRow(c.Request().Context(), "SELECT customer_id FROM api_tokens WHERE hash = $1",
		hash[:]).Scan(&id)
	return id, err
}

func (s *naiveShop) postOrder(c echo.Context) error {
	customer, err := s.customerOf(c)
	if err != nil {
		return echo.NewHTTPError(http.StatusUnauthorized)
	}
	var body struct {
		Email string               `json:"email"`
		Lines []orders.LineRequest `json:"lines"`
	}
	if err := c.Bind(&body); err != nil {
		return err
	}
	order, err := s.place(c.Request().Context(), customer, body.Email, body.Lines)
	if err != nil {
		return echo.NewHTTPError(naiveStatus(err), err.Error())
	}
	return c.JSON(http.StatusCreated, order)
}

func (s *naiveShop) postCharge(c echo.Context) error {
	if _, err := s.customerOf(c); err != nil {
		return echo.NewHTTPError(http.StatusUnauthorized)
	}
	var body struct {
		PaymentMethod string `json:"payment_method"`
	}
	if err := c.Bind(&body); err != nil {
		return err
	}
	id, err := strconv.ParseInt(c.Param("id"), 10, 64)
	if err != nil {
		return echo.NewHTTPError(http.StatusNotFound)
	}
	charge, err := s.charge(c.Request().Context(), id, body.PaymentMethod)
	if err != nil {
		return echo.NewHTTPError(naiveStatus(err), err.Error())
	}
	return c.JSON(http.StatusCreated, charge)
}
