package twin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/onceshop/onceshop/internal/accounts"
)

// demo is the demo of this shop as a service to test.
type demo struct {
	client *http.Client
	url    string
	mark   string // the beginning of the address in each order of this run
}

// maxDemoPages bounds how many orders of a customer are read.
const maxDemoPages = 50

// ForDemo completes the configuration for a demo of this shop at its URL. The function done cancels
// the orders of the run, so that their stock comes back. It reports false if there is no demo.
func ForDemo(ctx context.Context, config Config, name string) (_ Config, done func(context.Context) error, ok bool) {
	r, err := newRun(config)
	if err != nil {
		return config, nil, false
	}
	d := &demo{client: r.http, url: strings.TrimSuffix(config.URL, "/"), mark: "twin-" + name + "-"}
	lines, err := d.lines(ctx)
	if err != nil || len(lines) == 0 {
		return config, nil, false
	}
	if _, err := d.orders(ctx, accounts.DemoAlice); err != nil {
		return config, nil, false
	}
	config.Method, config.Path, config.NullMember = http.MethodPost, "/v1/orders", "expected_total"
	config.Header = http.Header{"Authorization": {"Bearer " + accounts.DemoAlice}}
	config.OtherHeader = http.Header{"Authorization": {"Bearer " + accounts.DemoBob}}
	config.Body = fmt.Sprintf(`{"email":"%s{{unique}}@example.com","lines":[%s]}`, d.mark, strings.Join(lines, ","))
	config.Count = d.count
	return config, d.cancel, true
}

// lines returns the lines of the orders: units of the product with the most stock, and of a second
// one if it lasts for a run.
func (d *demo) lines(ctx context.Context) ([]string, error) {
	const lasting = 200
	type product struct {
		SKU       string `json:"sku"`
		Available int    `json:"available"`
	}
	var catalog struct {
		Products []product `json:"products"`
	}
	err := d.get(ctx, "/v1/products", "", &catalog)
	slices.SortStableFunc(catalog.Products, func(a, b product) int { return b.Available - a.Available })
	var lines []string
	for n, p := range catalog.Products {
		if n == 0 || n == 1 && p.Available >= lasting {
			lines = append(lines, fmt.Sprintf(`{"sku":%q,"quantity":1}`, p.SKU))
		}
	}
	return lines, err
}

type demoOrder struct {
	ID     string `json:"id"`
	Email  string `json:"email"`
	Status string `json:"status"`
}

// count returns how many orders this run has placed.
func (d *demo) count(ctx context.Context) (int, error) {
	n := 0
	for _, token := range []string{accounts.DemoAlice, accounts.DemoBob} {
		orders, err := d.orders(ctx, token)
		if err != nil {
			return 0, err
		}
		n += len(orders)
	}
	return n, nil
}

// orders returns the orders that this run has placed for the owner of the token. They are among the
// newest: a page without one of them ends the search.
func (d *demo) orders(ctx context.Context, token string) ([]demoOrder, error) {
	var found []demoOrder
	after := ""
	for range maxDemoPages {
		var page struct {
			Orders []demoOrder `json:"orders"`
			More   bool        `json:"has_more"`
		}
		if err := d.get(ctx, "/v1/orders?limit=100"+after, token, &page); err != nil {
			return nil, err
		}
		before := len(found)
		for _, order := range page.Orders {
			if strings.HasPrefix(order.Email, d.mark) {
				found = append(found, order)
			}
		}
		if !page.More || len(found) == before {
			break
		}
		after = "&after=" + page.Orders[len(page.Orders)-1].ID
	}
	return found, nil
}

// cancel cancels the orders of this run.
func (d *demo) cancel(ctx context.Context) error {
	for _, token := range []string{accounts.DemoAlice, accounts.DemoBob} {
		orders, err := d.orders(ctx, token)
		if err != nil {
			return err
		}
		for _, order := range orders {
			if order.Status != "placed" {
				continue
			}
			if err := d.call(ctx, http.MethodPost, "/v1/orders/"+order.ID+"/cancel", token, order.ID, nil); err != nil {
				return fmt.Errorf("cancel the orders of this run: %w", err)
			}
		}
	}
	return nil
}

func (d *demo) get(ctx context.Context, path, token string, into any) error {
	return d.call(ctx, http.MethodGet, path, token, "", into)
}

func (d *demo) call(ctx context.Context, method, path, token, key string, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, d.url+path, nil)
	if err != nil {
		return err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	response, err := d.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", path, response.Status)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}
