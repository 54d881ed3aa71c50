package orders

import (
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestNumber(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse("0192f3a4-7c21-7b1e-8f00-01ffffc08462")
	if got := Number(id); got != "ZZZW-1132" {
		t.Errorf("number %s", got)
	}
	for _, typed := range []string{Number(id), strings.ToLower(Number(id)), "#" + Number(id),
		" " + strings.ReplaceAll(Number(id), "-", " "), strings.ReplaceAll(Number(id), "0", "o")} {
		if end, ok := numberEnd(typed); !ok || !strings.HasSuffix(id.String(), end) || len(end) != 10 {
			t.Errorf("%q is the end %q, %t", typed, end, ok)
		}
	}
	for _, wrong := range []string{"", "7K3M", "7K3M-9QXDA", "7K3M-9QXU", id.String(), "🦀🦀"} {
		if end, ok := numberEnd(wrong); ok {
			t.Errorf("%q is the end %q", wrong, end)
		}
	}
}

// All 40 bits of a number are random, also among ids of the same moment: each is set in half of
// them. Among 10,000 numbers, 1 pair in 22,000 trials is equal.
func TestNumbersDiffer(t *testing.T) {
	t.Parallel()
	const orders = 10_000
	seen, set := make(map[string]bool, orders), [8 * numberBytes]int{}
	for range orders {
		id := uuid.Must(uuid.NewV7())
		seen[Number(id)] = true
		for bit := range set {
			set[bit] += int(id[len(id)-numberBytes+bit/8] >> (bit % 8) & 1)
		}
	}
	if len(seen) != orders {
		t.Errorf("%d numbers of %d orders", len(seen), orders)
	}
	for bit, n := range set {
		if n < orders*9/20 || n > orders*11/20 { // ten standard deviations
			t.Errorf("bit %d is set in %d of %d", bit, n, orders)
		}
	}
}
