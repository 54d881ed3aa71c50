package api

import "github.com/labstack/echo/v4"

// Decode is how every handler reads a body.
func Decode(c echo.Context, into any) error { return decode(c, into) }
