package notify

import (
	"fmt"
	"html"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/onceshop/onceshop/internal/money"
)

func testReceipt() Receipt {
	return Receipt{
		OrderID:  "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b",
		Number:   "3MEY-WJTV",
		ShopName: "Onceshop",
		ShopURL:  "https://shop.example/",
		Email:    "ann@example.com",
		PaidAt:   time.Date(2026, 11, 23, 17, 5, 0, 0, time.FixedZone("", 3600)),
		Currency: "EUR",
		Lines: []ReceiptLine{
			{"CUP-4", "Espresso cups, set of four", 2, 2450, 4900},
			{"POT-1", "Teapot with a name that is far too long for one line of a mail", 1, 3900, 3900},
			{"TIN-9", `Tin <b>"Earl & Grey"</b>`, 12, 99999, 1199988},
		},
		Total: 1208788,
	}
}

var (
	hidden = regexp.MustCompile(`(?s)<head>.*</head>|<[^>]*>`)
	spaces = regexp.MustCompile(`\s+`)
)

// shown is what a reader of the mail sees of its HTML.
func shown(page string) string {
	return spaces.ReplaceAllString(html.UnescapeString(hidden.ReplaceAllString(page, " ")), " ")
}

func TestReceiptMessage(t *testing.T) {
	t.Parallel()
	r := testReceipt()
	msg, err := r.Message("Onceshop <shop@example.com>", "shop.example")
	if err != nil {
		t.Fatal(err)
	}
	if want := "receipt." + r.OrderID + "@shop.example"; msg.ID != want {
		t.Errorf("ID %q, want %q", msg.ID, want)
	}
	if msg.To != r.Email || msg.From != "Onceshop <shop@example.com>" {
		t.Errorf("from %q to %q", msg.From, msg.To)
	}
	if want := "Your receipt from Onceshop · order " + r.Number; msg.Subject != want {
		t.Errorf("subject %q, want %q", msg.Subject, want)
	}
	wants := []string{r.Number, r.Email, r.ShopName, "23 November 2026, 16:05 UTC", "€12,087.88", "Total paid (EUR)",
		"This receipt is sent once.", "€24.50 each", "€999.99 each"}
	for _, line := range r.Lines {
		wants = append(wants,
			fmt.Sprintf("%d × %s", line.Quantity, line.Name), line.SKU, money.Format(line.Amount, r.Currency))
	}
	for part, content := range map[string]string{"text": spaces.ReplaceAllString(msg.Text, " "),
		"html": shown(msg.HTML)} {
		for _, want := range wants {
			if !strings.Contains(content, want) {
				t.Errorf("%s part lacks %q:\n%s", part, want, content)
			}
		}
	}
	const page = "https://shop.example/orders/0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
	if !strings.Contains(msg.Text, page+"\n") || !strings.Contains(msg.HTML, `href="`+page+`"`) {
		t.Errorf("a part lacks the link to %s", page)
	}
	if strings.Contains(msg.HTML, "<b>") {
		t.Error("a product's name is not escaped")
	}
}

func TestReceiptTextIsAligned(t *testing.T) {
	t.Parallel()
	msg, err := testReceipt().Message("shop@example.com", "shop.example")
	if err != nil {
		t.Fatal(err)
	}
	right := 0
	for line := range strings.Lines(msg.Text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasSuffix(line, " ") || strings.Contains(line, "\t") {
			t.Errorf("stray white space in %q", line)
		}
		if regexp.MustCompile(`  €[0-9.,]+$|-{5}$`).MatchString(line) {
			right++
			if n := utf8.RuneCountInString(line); n != textWidth {
				t.Errorf("%q ends in column %d, want %d", line, n, textWidth)
			}
		}
	}
	if right != 6 { // three lines, the total, two rules
		t.Errorf("%d lines end on the right edge, want 6:\n%s", right, msg.Text)
	}
}

func TestReceiptCurrencies(t *testing.T) {
	t.Parallel()
	for currency, want := range map[string]string{"JPY": "¥1,208,788", "BHD": "BHD\u00a01,208.788",
		"USD": "$12,087.88"} {
		r := testReceipt()
		r.Currency = currency
		msg, err := r.Message("shop@example.com", "shop.example")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(msg.Text, want) || !strings.Contains(html.UnescapeString(msg.HTML), want) {
			t.Errorf("%s: a part lacks the total %q", currency, want)
		}
	}
}

func TestReceiptErrors(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*Receipt){
		"currency": func(r *Receipt) { r.Currency = "XYZ" },
		"no URL":   func(r *Receipt) { r.ShopURL = "" },
		"script":   func(r *Receipt) { r.ShopURL = "javascript:alert(1)" },
	} {
		r := testReceipt()
		spoil(&r)
		if _, err := r.Message("shop@example.com", "shop.example"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestReceiptArrives(t *testing.T) {
	t.Parallel()
	smtpURL, all := startMailbox(t)
	msg, err := testReceipt().Message("Onceshop <shop@example.com>", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	m := newMailer(t, smtpURL, 10*time.Second)
	if err := m.Send(t.Context(), msg); err != nil {
		t.Fatal(err)
	}
	got := all()
	if len(got) != 1 || got[0].MessageID != msg.ID || got[0].Subject != msg.Subject {
		t.Fatalf("got %+v, want one message %q", got, msg.ID)
	}
	if strings.TrimSpace(strings.ReplaceAll(got[0].Text, "\r\n", "\n")) != strings.TrimSpace(msg.Text) {
		t.Errorf("text arrived as %q", got[0].Text)
	}
}
