package web

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/problem"
)

var editPage = parseAdmin("admin_product.html")

// edit is the form to change a product, shown and submitted. Price is in units of the currency.
type edit struct {
	SKU, Name, Description, Price, Currency string
	// Wrong is why the form was refused.
	Wrong string
}

func (w *Web) showEdit(c echo.Context) error {
	product, err := w.productOf(c)
	if err != nil {
		return err
	}
	return w.render(c, http.StatusOK, editPage, page{Title: "Edit product", Content: edit{SKU: product.SKU,
		Name: product.Name, Description: product.Description, Currency: product.Currency,
		Price: money.Decimal(product.UnitPrice, product.Currency)}})
}

// saveProduct changes a product as `shop product` does. Sent again, the form changes nothing more.
func (w *Web) saveProduct(c echo.Context) error {
	form, err := postForm(c)
	if err != nil {
		return err
	}
	product, err := w.productOf(c)
	if err != nil {
		return err
	}
	f := edit{SKU: product.SKU, Currency: product.Currency, Price: strings.TrimSpace(form.Get("price")),
		Name: strings.TrimSpace(form.Get("name")), Description: strings.TrimSpace(form.Get("description"))}
	price, err := money.Parse(f.Price, f.Currency)
	if err != nil {
		err = problem.InvalidError{Field: "price", Reason: "must be an amount such as 12.50"}
	} else {
		_, err = w.Orders.Save(c.Request().Context(), orders.SaveProduct{SKU: f.SKU, Name: &f.Name,
			Description: &f.Description, Price: &price})
	}
	if invalid, ok := errors.AsType[problem.InvalidError](err); ok {
		f.Wrong = "The " + invalid.Field + " " + invalid.Reason + "."
		return w.render(c, http.StatusUnprocessableEntity, editPage, page{Title: "Edit product", Content: f})
	}
	if err != nil {
		return err
	}
	return seeOther(c, "/products/"+f.SKU+"?notice=saved")
}

// productOf returns the product of the path, or errNoProduct.
func (w *Web) productOf(c echo.Context) (orders.Product, error) {
	products, err := w.Orders.Products(c.Request().Context())
	if err != nil {
		return orders.Product{}, err
	}
	at := slices.IndexFunc(products, func(p orders.Product) bool { return p.SKU == c.Param("sku") })
	if at < 0 {
		return orders.Product{}, errNoProduct
	}
	return products[at], nil
}
