package api

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/problem"
)

// limitGuests bounds calls that need no token.
func (a *API) limitGuests(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if err := a.Limits.Guest(c.RealIP()); err != nil {
			return err
		}
		return next(c)
	}
}

// limitTokens bounds calls with a token, before the token is looked up.
func (a *API) limitTokens(next echo.HandlerFunc) echo.HandlerFunc {
	if a.Limits == nil {
		return next
	}
	return func(c echo.Context) error {
		token := bearer(c)
		if err := a.Limits.Token(c.RealIP(), token); err != nil {
			if customer, ok := a.Accounts.Remembered(token); ok {
				c.Set(customerKey, customer)
			}
			return err
		}
		err := next(c)
		if c.Get(customerKey) != nil {
			a.Limits.Accepted(token)
		}
		return err
	}
}

// bearer returns the request's token, or "".
func bearer(c echo.Context) string {
	scheme, token, _ := strings.Cut(c.Request().Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return token
}

// readBody reads the body and decompresses gzip. The limit applies to the decompressed size, so a
// small body cannot fill the memory.
func readBody(c echo.Context) ([]byte, error) {
	request := c.Request()
	from := io.Reader(request.Body)
	switch encoding := strings.ToLower(request.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		inflated, err := gzip.NewReader(from)
		if err != nil {
			return nil, cutBody(err, "is not what its Content-Encoding says: gzip")
		}
		from = http.MaxBytesReader(c.Response(), inflated, maxBody)
	default:
		return nil, problem.InvalidError{Field: "Content-Encoding", Reason: "must be gzip, or left out"}
	}
	body, err := io.ReadAll(from)
	if err != nil {
		return nil, cutBody(err, "did not arrive whole and in time")
	}
	return body, nil
}

// cutBody returns a 400 for a body that cannot be read, or the error of one that is too large.
func cutBody(err error, reason string) error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge
	}
	return problem.InvalidError{Field: "body", Reason: reason}
}
