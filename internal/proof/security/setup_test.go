package security_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/proof"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const (
	within = 20 * time.Second
	// missing is the id of nothing.
	missing = "01a209a1-5904-7607-86fe-0d10d0f6ba14"
)

func TestMain(m *testing.M) { shoptest.Main(m) }

var client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// send makes one request as it is, for what the API's own client cannot say. It reports what goes
// wrong, and goes on.
func send(t *testing.T, method, address string, header http.Header, body []byte) apitest.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, address, bytes.NewReader(body))
	if err != nil {
		t.Error(err)
		return apitest.Response{}
	}
	for name, values := range header {
		request.Header[name] = values
	}
	return read(t, request)
}

func read(t *testing.T, request *http.Request) apitest.Response {
	t.Helper()
	answer, err := client.Do(request)
	if err != nil {
		t.Error(err)
		return apitest.Response{}
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Error(err)
	}
	return apitest.Response{Status: answer.StatusCode, Header: answer.Header, Body: body}
}

func get(t *testing.T, address string) apitest.Response {
	t.Helper()
	return send(t, http.MethodGet, address, nil, nil)
}

// submit sends a form.
func submit(t *testing.T, address string, header http.Header, form url.Values) apitest.Response {
	t.Helper()
	all := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	for name, values := range header {
		all[name] = values
	}
	return send(t, http.MethodPost, address, all, []byte(form.Encode()))
}

// sendRaw writes bytes that no client library would, and returns the answer's status.
func sendRaw(t *testing.T, base, text string) int {
	t.Helper()
	conn := dial(t, base)
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	return answer.StatusCode
}

func dial(t *testing.T, base string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// expect checks status and, for problems, code.
func expect(t *testing.T, what string, got apitest.Response, status int, code string) {
	t.Helper()
	var p struct{ Code string }
	if strings.HasPrefix(got.Header.Get("Content-Type"), "application/problem+json") {
		if err := json.Unmarshal(got.Body, &p); err != nil {
			t.Error(err)
		}
	}
	if got.Status != status || p.Code != code {
		t.Errorf("%s: got %d %.300s, want %d %s", what, got.Status, got.Body, status, code)
	}
}

// buy places an order of two mugs under the key and pays for it.
func buy(t *testing.T, buyer *apitest.Client, key string) (order orders.Order, charge payments.Charge) {
	t.Helper()
	order = place(t, buyer, key)
	paid := buyer.Post(t.Context(), "/v1/orders/"+order.ID.String()+"/charges", key, `{"payment_method":"pm_ok"}`)
	expect(t, "pay", paid, http.StatusCreated, "")
	paid.JSON(t, &charge)
	return order, charge
}

func place(t *testing.T, buyer *apitest.Client, key string) (order orders.Order) {
	t.Helper()
	placed := buyer.Post(t.Context(), "/v1/orders", key, apptest.OrderBody("buyer@example.com", "MUG-ONCE", 2))
	expect(t, "place", placed, http.StatusCreated, "")
	placed.JSON(t, &order)
	return order
}

// bearer is the header of a token.
func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// withLab adds the lab's pages to a shop. No experiment can run there.
func withLab(c *app.Config) {
	c.Sections = []app.Section{proof.LabSection(func() proof.DemoServers { return proof.DemoServers{} })}
}
