package app_test

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// Two cells share a database, a broker and a Redis. The same keys, at the same time, buy in both,
// and each buyer gets one receipt of each.
func TestCells(t *testing.T) {
	t.Parallel()
	database := shoptest.DatabaseURL(t)
	join := "?"
	if strings.Contains(database, "?") {
		join = "&"
	}
	north := apptest.Start(t, 1, func(c *app.Config) { c.DatabaseURL = database + join + "search_path=north" })
	south := apptest.Start(t, 1, func(c *app.Config) {
		c.DatabaseURL = database + join + "search_path=south"
		c.RedisURL, c.BrokerURL = north.Config.RedisURL, north.Config.BrokerURL
	})
	cells := []*apptest.Shop{north, south}
	for _, shop := range cells {
		payTwins(t, shop, placeTwins(t, shop, "alice@example.com"))
	}
	for _, shop := range cells {
		shoptest.Eventually(t, within, "the receipt arrives", func() bool {
			return shop.Count(t, "SELECT count(*) FROM receipts WHERE sent_at IS NOT NULL") > 0
		})
		awaitQuiet(t, shop)
		if mails := shop.Mails(t, "alice@example.com"); len(mails) != 1 {
			t.Errorf("mails %v", mails)
		}
		for query, want := range map[string]int64{
			"SELECT count(*) FROM orders":        1,
			"SELECT count(*) FROM receipts":      1,
			"SELECT count(*) FROM outbox":        3,
			"SELECT count(*) FROM public.orders": 0,
		} {
			if got := shop.Count(t, query); got != want {
				t.Errorf("%s: %d, want %d", query, got, want)
			}
		}
		if ready, _ := read(t, shop.Ops[0]+"/readyz"); ready != http.StatusOK {
			t.Errorf("/readyz is %d", ready)
		}
		var out bytes.Buffer
		if err := app.Check(t.Context(), shop.Config, 0, 0, &out); err != nil {
			t.Errorf("check: %v\n%s", err, &out)
		}
	}
	want := []string{"SHOP_NORTH_DEAD", "SHOP_NORTH_EVENTS", "SHOP_SOUTH_DEAD", "SHOP_SOUTH_EVENTS"}
	if got := streams(t, north.Config.BrokerURL); !slices.Equal(got, want) {
		t.Errorf("streams %v, want %v", got, want)
	}
}

// streams returns the names of all streams of a broker.
func streams(t *testing.T, url string) (names []string) {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	list := js.StreamNames(t.Context())
	for name := range list.Name() {
		names = append(names, name)
	}
	if list.Err() != nil {
		t.Fatal(list.Err())
	}
	slices.Sort(names)
	return names
}
