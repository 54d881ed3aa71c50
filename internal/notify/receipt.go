package notify

import (
	"embed"
	"fmt"
	htmltemplate "html/template"
	"net/url"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"

	"github.com/onceshop/onceshop/internal/money"
)

// Receipt is the content of the mail about a paid order. Money is in minor units of Currency (ISO
// 4217). ShopURL is the address of the storefront. Number is the order's number for people.
type Receipt struct {
	OrderID, Number, ShopName, ShopURL string
	Email                              string
	PaidAt                             time.Time
	Currency                           string
	Lines                              []ReceiptLine
	Total                              int64
}

// ReceiptLine is one line of the order. Amount is the price of the whole line.
type ReceiptLine struct {
	SKU, Name                   string
	Quantity, UnitPrice, Amount int64
}

//go:embed receipt.html.tmpl receipt.txt.tmpl
var receiptFiles embed.FS

var (
	receiptFuncs = map[string]any{"money": money.Format, "row": row, "when": when}
	receiptHTML  = htmltemplate.Must(htmltemplate.New("receipt.html.tmpl").
			Funcs(receiptFuncs).ParseFS(receiptFiles, "receipt.html.tmpl"))
	receiptText = template.Must(template.New("receipt.txt.tmpl").
			Funcs(receiptFuncs).ParseFS(receiptFiles, "receipt.txt.tmpl"))
)

// Message returns the receipt as a mail from an address such as "Onceshop <shop@example.com>". Its
// Message-ID is always receipt.ORDER-ID@host. Message fails if the currency is unknown or ShopURL
// is not an http address.
func (r Receipt) Message(from, host string) (Message, error) {
	if !money.Valid(r.Currency) {
		return Message{}, fmt.Errorf("receipt: currency %q is not an ISO 4217 code", r.Currency)
	}
	shop, err := url.Parse(r.ShopURL)
	if err != nil || (shop.Scheme != "https" && shop.Scheme != "http") || shop.Host == "" {
		return Message{}, fmt.Errorf("receipt: shop URL %q: want http(s)://host", r.ShopURL)
	}
	data := struct {
		Receipt
		Subject, OrderURL string
	}{
		Receipt:  r,
		Subject:  fmt.Sprintf("Your receipt from %s · order %s", r.ShopName, r.Number),
		OrderURL: shop.JoinPath("orders", r.OrderID).String(),
	}
	var text, html strings.Builder
	if err := receiptText.Execute(&text, data); err != nil {
		return Message{}, fmt.Errorf("receipt: text: %w", err)
	}
	if err := receiptHTML.Execute(&html, data); err != nil {
		return Message{}, fmt.Errorf("receipt: html: %w", err)
	}
	return Message{
		ID:      "receipt." + r.OrderID + "@" + host,
		From:    from,
		To:      r.Email,
		Subject: data.Subject,
		Text:    text.String(),
		HTML:    html.String(),
	}, nil
}

func when(t time.Time) string {
	return t.UTC().Format("2 January 2006, 15:04 UTC")
}

// textWidth fits on the screen of a phone.
const textWidth = 60

// row puts left and right at the two edges of a line of text, or on two lines if they do not fit.
func row(left, right string) string {
	left = strings.Join(strings.Fields(left), " ")
	gap := textWidth - utf8.RuneCountInString(left) - utf8.RuneCountInString(right)
	if gap < 2 {
		return left + "\n" + strings.Repeat(" ", max(0, textWidth-utf8.RuneCountInString(right))) + right
	}
	return left + strings.Repeat(" ", gap) + right
}
