package psp

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"slices"

	"golang.org/x/text/currency"

	"github.com/onceshop/onceshop/internal/payments"
)

// pageRows is how many captures and how many refunds the page shows.
const pageRows = 200

//go:embed page.html
var pageHTML string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{"money": money}).Parse(pageHTML))

// page shows people what the provider holds, newest first.
func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	captures := s.ledger.findCaptures(func(capture) bool { return true })
	refunds := s.ledger.findRefunds(func(payments.ProviderRefund) bool { return true })
	var html bytes.Buffer
	err := pageTemplate.Execute(&html, map[string]any{
		"Captures": newest(captures), "CaptureCount": len(captures),
		"Refunds": newest(refunds), "RefundCount": len(refunds),
		"Rows": pageRows,
	})
	if err != nil {
		s.cfg.Logger.ErrorContext(r.Context(), "provider page failed", "error", err)
		http.Error(w, "the page could not be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy",
		"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(html.Bytes())
}

func newest[T any](all []T) []T {
	last := slices.Clone(all[max(0, len(all)-pageRows):])
	slices.Reverse(last)
	return last
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
