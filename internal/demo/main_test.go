package demo_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestMain(m *testing.M) { shoptest.Main(m) }

// send sends a request without a body.
func send(t *testing.T, method, address string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// get returns the page at the address.
func get(t *testing.T, address string) string {
	t.Helper()
	status, page := send(t, http.MethodGet, address)
	if status != http.StatusOK {
		t.Fatalf("%s answers %d: %s", address, status, page)
	}
	return page
}
