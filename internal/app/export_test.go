package app

import "github.com/labstack/echo/v4"

// PublicHandler is everything on the public address, open for one more route.
func (a *App) PublicHandler() *echo.Echo { return a.webHandler().(*echo.Echo) }
