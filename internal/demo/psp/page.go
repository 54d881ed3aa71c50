package psp

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"slices"

	"github.com/google/uuid"
	"golang.org/x/text/currency"

	"github.com/onceshop/onceshop/internal/demo/bar"
	"github.com/onceshop/onceshop/internal/orders"
)

// pageRows is how many objects of each kind the page shows.
const pageRows = 200

//go:embed page.html action.html
var pageFiles embed.FS

var pages = bar.Parse(pageFiles, template.FuncMap{"money": money, "number": number}, "page.html", "action.html")

// page shows people what the provider holds, newest first.
func (s *Server) page(w http.ResponseWriter, _ *http.Request) error {
	captures := find(s.ledger, &s.ledger.captures, all)
	refunds := find(s.ledger, &s.ledger.refunds, all)
	disputes := find(s.ledger, &s.ledger.disputes, all)
	return writePage(w, "page", map[string]any{
		"Top":      bar.Top{Title: "Payment provider (simulated)", Server: "provider", Bar: s.cfg.Bar.HTML()},
		"ShopURL":  s.cfg.Bar.ShopURL(),
		"Captures": newest(captures), "CaptureCount": len(captures),
		"Refunds": newest(refunds), "RefundCount": len(refunds),
		"Disputes": newest(disputes), "DisputeCount": len(disputes),
		"Rows": pageRows,
	})
}

func writePage(w http.ResponseWriter, name string, data any) error {
	var html bytes.Buffer
	if err := pages.ExecuteTemplate(&html, name+".html", data); err != nil {
		return fmt.Errorf("psp: make the page: %w", err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", bar.Policy)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(html.Bytes())
	return nil
}

func newest[T any](all []T) []T {
	last := slices.Clone(all[max(0, len(all)-pageRows):])
	slices.Reverse(last)
	return last
}

// number shortens a merchant's id for people. An id that is not a UUID stays.
func number(id string) string {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return id
	}
	return orders.Number(parsed)
}

// money writes minor units for people: 1250 EUR is 12.50 EUR, 1250 JPY is 1250 JPY.
func money(amount int64, code string) string {
	decimals := 2
	if unit, err := currency.ParseISO(code); err == nil {
		decimals, _ = currency.Standard.Rounding(unit)
	}
	if decimals == 0 {
		return fmt.Sprintf("%d %s", amount, code)
	}
	unit := int64(1)
	for range decimals {
		unit *= 10
	}
	return fmt.Sprintf("%d.%0*d %s", amount/unit, decimals, amount%unit, code)
}
