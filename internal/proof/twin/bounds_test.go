package twin

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// A run sends no more requests than its limit, whole or in part.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	var arrived atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
	defer server.Close()
	r, err := newRun(Config{URL: server.URL, Method: http.MethodPost, KeyHeader: "Idempotency-Key", Concurrency: 2})
	if err != nil {
		t.Fatal(err)
	}
	r.limit = 2
	i := r.intent()
	for n, a := range []answer{r.send(t.Context(), 0, i), r.sendRaw(t.Context(), i, i.key), r.send(t.Context(), 0, i),
		r.sendRaw(t.Context(), i, i.key), r.settle(t.Context(), i)} {
		if over := n >= 2; errors.Is(a.err, errTooMany) != over {
			t.Errorf("request %d: %v", n+1, a.err)
		}
	}
	if err := r.abandon(t.Context(), i, 1, 0); !errors.Is(err, errTooMany) {
		t.Errorf("abandon: %v", err)
	}
	if n := arrived.Load(); n != 2 {
		t.Errorf("%d requests arrived", n)
	}
}
