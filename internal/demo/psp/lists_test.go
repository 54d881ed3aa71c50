package psp_test

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/demo/psp"
	"github.com/onceshop/onceshop/internal/payments"
)

// A list comes in pages, and begins at a time.
func TestLists(t *testing.T) {
	t.Parallel()
	p := start(t, psp.Config{})
	c := p.client(patience)
	const captures = 1001 // two pages and one
	begin := time.Now()
	for i := range captures {
		if _, err := c.Capture(t.Context(), keyedRequest(fmt.Sprint(i), fmt.Sprint("ch", i), "pm_ok")); err != nil {
			t.Fatal(err)
		}
	}
	list := func(since time.Time) map[string]int {
		seen := map[string]int{}
		if err := c.ListCaptures(t.Context(), since, func(capture payments.Capture) error {
			seen[capture.Reference]++
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return seen
	}
	if seen := list(begin.Add(-time.Minute)); len(seen) != captures || seen["ch1000"] != 1 {
		t.Errorf("%d captures, want %d", len(seen), captures)
	}
	if seen := list(time.Now().Add(time.Minute)); len(seen) != 0 {
		t.Errorf("%d captures in the future", len(seen))
	}
	for _, query := range []url.Values{{"since": {"yesterday"}}, {"limit": {"0"}}, {"limit": {"many"}},
		{"after": {"cap_0"}}} {
		for _, path := range []string{"/v1/captures?", "/v1/refunds?"} {
			if got := p.get(path + query.Encode()); got.status != 400 || got.code(t) != "invalid_request" {
				t.Errorf("%s%s: %d", path, query.Encode(), got.status)
			}
		}
	}
}
