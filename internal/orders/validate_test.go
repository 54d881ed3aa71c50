package orders_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/problem"
)

func TestEmail(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.deliver(t, line("CUP", 1))
	for _, bad := range []string{"", "alice", "a@", "@example.com", "a@[127.0.0.1]", "a@[IPv6:::1]",
		"a@127.0.0.1", "root@localhost",
		"a@example", "a@example.", "a@.example.com", "a@ex..com", "a@-ex.com", "a@ex-.com",
		"a@example.c_m", "a@b@example.com",
		strings.Repeat("a", 65) + "@example.com", "a@" + strings.Repeat("b", 64) + ".com",
		strings.Repeat("a", 64) + "@" + strings.Repeat("b.", 94) + "com", `"a b"@example.com`, `"a"@example.com`,
		"a(comment)@example.com", "a@example.com(comment)", "Alice <a@example.com>", "<a@example.com>",
		".a@example.com",
		"a.@example.com", "a..b@example.com", " a@example.com", "a@example.com ", "a@example.com\n",
		"a\u0000@example.com",
		"a\u200b@example.com", "a@exam\u00adple.com", "\ufeffa@example.com", "a\u00a0b@example.com", "ä@example.com",
		"a@example.com, b@example.com", "a@example.com\r\nBcc: b@example.com", "a@exämple.com"} {
		c := b.order("k1", line("CUP", 1))
		c.Email = bad
		_, err := b.shop.Place(t.Context(), c)
		if invalid, ok := errors.AsType[problem.InvalidError](err); !ok || invalid.Field != "email" {
			t.Errorf("%q: %v", bad, err)
		}
	}
	var c orders.PlaceOrder
	for _, good := range []string{"alice@example.com", "a.b+c@sub.example.co.uk",
		"o'neil@xn--exmple-cua.com", "a@1.example.com",
		strings.Repeat("a", 64) + "@example.com", "1@example.museum", "a@example.xn--p1ai", "a_b-c@a-b.io"} {
		c = b.order("unknown", line("NONE", 1))
		c.Email = good
		_, err := b.shop.Place(t.Context(), c)
		if _, ok := errors.AsType[orders.UnknownSKUError](err); !ok {
			t.Errorf("%q: %v", good, err)
		}
	}
}

// A SKU that looks like a product's is refused with the reason, not taken for the product.
func TestSKUThatLooksLikeAnother(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, sku := range []string{"CUP ", " CUP", "CUP\u00a0", "CU\u200bP", "\ufeffCUP", "CUP\t",
		"CUP\u0000", "CUP\u2800"} {
		_, placed := b.shop.Place(t.Context(), b.order("k1", line(sku, 1)))
		_, delivered := b.shop.Receive(t.Context(), b.delivery("k1", line(sku, 1)))
		for _, err := range []error{placed, delivered} {
			if invalid, ok := errors.AsType[problem.InvalidError](err); !ok || invalid.Field != "lines[0].sku" {
				t.Errorf("%q: %v", sku, err)
			}
		}
	}
}
