package web

import (
	"errors"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/orders"
)

var (
	productsPage = parsePage("products.html")
	productPage  = parsePage("product.html")
)

var errNoProduct = errors.New("web: no such product")

// productView is the content of a product's page, with a few other products. Max is the largest
// quantity to order.
type productView struct {
	orders.Product
	Max int64
	// Editable shows operators, and in the demo every visitor, the way to edit the product.
	Editable bool
	Others   []orders.Product
}

// othersShown is the number of other products on a product's page.
const othersShown = 3

func (w *Web) showProducts(c echo.Context) error {
	products, err := w.Orders.Products(c.Request().Context())
	if err != nil {
		return err
	}
	return w.render(c, http.StatusOK, productsPage, page{Title: "Well-made single things", Content: products})
}

func (w *Web) showProduct(c echo.Context) error {
	products, err := w.Orders.Products(c.Request().Context())
	if err != nil {
		return err
	}
	at := slices.IndexFunc(products, func(p orders.Product) bool { return p.SKU == c.Param("sku") })
	if at < 0 {
		return errNoProduct
	}
	view := productView{Product: products[at], Max: min(products[at].Available, maxQuantity),
		Editable: w.Demo || w.isAdmin(c)}
	// Show the next ones in the list, so that their links lead through all products.
	for i := 1; i < len(products) && i <= othersShown; i++ {
		view.Others = append(view.Others, products[(at+i)%len(products)])
	}
	return w.render(c, http.StatusOK, productPage, page{Title: view.Name, Content: view})
}
