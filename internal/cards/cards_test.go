package cards_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/onceshop/onceshop/internal/cards"
)

// The numbers that the networks publish for tests.
var numbers = []string{"4242424242424242", "4000056655665556", "4222222222222", "5555555555554444", "2223003122003222",
	"5105105105105100",
	"378282246310005", "371449635398431", "6011111111111117", "6011981111111113", "3056930009020004", "36227206271667",
	"3566002020360505",
	"6200000000000005", "6205500000000000004", "6759649826438453"}

func TestFinds(t *testing.T) {
	t.Parallel()
	for _, number := range numbers {
		four := strings.TrimSpace(number[:4] + " " + number[4:8] + " " + number[8:12] + " " + number[12:])
		for _, text := range []string{number, four, strings.ReplaceAll(four, " ", "-"), number + "@example.com",
			"card: " + number + ".", "key_" + number, "key-" + number,
			four + " 12/27 123", "order 7 " + four, `{"sku":"` + number + `"}`, number[:4] + " " + number[4:],
			uuid.Nil.String() + " " + number} {
			if !cards.In(text) {
				t.Errorf("%q holds no card number", text)
			}
		}
	}
}

func TestLeavesAlone(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "1", "4242424242424241", "1234567812345670", "42424242424242424242424242424242",
		"4242  4242  4242  4242", "4242.4242.4242.4242",
		"a4242424242424242", "4242424242424242f", "+4915112345678", "+4222222222222", "0.4242424242424242", "MUG-ONCE",
		time.Now().Format(time.RFC3339Nano), "1732500000000", "1732500000000000",
		"4006381333931", "4006381333931 ", "5012345678900", "01a209a1-5904-7607-86fe-0d10d0f6ba14",
		"42424242-4242-4242-9242-424242424242"} {
		if cards.In(text) {
			t.Errorf("%q is taken for a card number", text)
		}
	}
}

// A customer's keys are UUIDs as a rule: not one in any number of them may be refused.
func TestNoUUIDIsACard(t *testing.T) {
	t.Parallel()
	digits := rapid.StringMatching(`[0-9]{8}-[0-9]{4}-[0-9]{4}-[0-9]{4}-[0-9]{12}`)
	mostlyDigits := rapid.StringMatching(`[0-9]{7}[0-9a-f]-[0-9]{4}-[47][0-9]{3}-[89ab][0-9]{3}-[0-9]{12}`)
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.OneOf(digits, mostlyDigits).Draw(t, "id")
		for _, text := range []string{id, "order-" + id, id + "-1", `{"id":"` + id + `"}`} {
			if cards.In(text) {
				t.Fatalf("%q is taken for a card number", text)
			}
		}
	})
}

func FuzzIn(f *testing.F) {
	for _, number := range numbers {
		f.Add(number)
	}
	f.Fuzz(func(t *testing.T, text string) {
		// Whatever stands around it, apart by something that is no part of a number, a card number
		// is found.
		if !cards.In(text + ": " + numbers[0] + ", " + text) {
			t.Errorf("%q hides a card number", text)
		}
	})
}

func BenchmarkIn(b *testing.B) {
	body := `{"email":"alice@example.com","lines":[{"sku":"MUG-ONCE","quantity":2},{"sku":"PIN-KEY","quantity":1}]}`
	for b.Loop() {
		cards.In(body)
	}
}
