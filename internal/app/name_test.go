package app_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// The shop's name is on its pages and in its receipts.
func TestName(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1, func(c *app.Config) { c.Name = "Kettle & Co, Ltd" })
	page := get(t, shop.Nodes[0]+"/")
	for _, want := range []string{" · Kettle &amp; Co, Ltd</title>", "<span>Kettle &amp; Co, Ltd</span></a>"} {
		if !strings.Contains(page, want) {
			t.Errorf("the first page has no %s", want)
		}
	}
	payTwins(t, shop, placeTwins(t, shop, "name@example.com"))
	shoptest.Eventually(t, within, "the receipt arrives", func() bool {
		return len(shop.Mails(t, "name@example.com")) > 0
	})
	var found struct {
		Messages []struct {
			From    struct{ Name string }
			Subject string
		} `json:"messages"`
	}
	mails := get(t, shop.Mailbox+"/api/v1/search?query=to:name@example.com")
	if err := json.Unmarshal([]byte(mails), &found); err != nil {
		t.Fatal(err)
	}
	if mail := found.Messages[0]; mail.From.Name != "Kettle & Co, Ltd" ||
		!strings.HasPrefix(mail.Subject, "Your receipt from Kettle & Co, Ltd") {
		t.Errorf("mail %+v", mail)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %d, %v", url, response.StatusCode, err)
	}
	return string(body)
}

func TestNamesThatDoNotFit(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]string{
		"Kettle & Co": "", "Käse 10": "", " ": "SHOP_NAME", "two\nlines": "SHOP_NAME", "\xff": "SHOP_NAME",
		strings.Repeat("é", 40): "", strings.Repeat("é", 41): "SHOP_NAME",
	} {
		settings := serveSettings()
		settings["SHOP_NAME"] = name
		_, err := require(settings)
		wantUsage(t, name, err, refused)
	}
}
