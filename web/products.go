package web

import (
	"net/http"

	"github.com/labstack/echo/v4"
)

var productsPage = parsePage("products.html")

func (w *Web) showProducts(c echo.Context) error {
	products, err := w.Orders.Products(c.Request().Context())
	if err != nil {
		return err
	}
	return w.render(c, http.StatusOK, productsPage, page{Title: "Well-made single things", Content: products})
}
