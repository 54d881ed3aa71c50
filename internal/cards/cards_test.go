package cards_test

import (
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode"

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
			uuid.Nil.String() + " " + number, uuid.Nil.String() + number,
			"a" + number, number + "f", "card" + number + "visa", "x" + four + "y",
			strings.ReplaceAll(four, " ", "."), strings.ReplaceAll(four, " ", "/"), strings.ReplaceAll(four, " ", "_"),
			strings.ReplaceAll(four, " ", "\u00a0"), strings.ReplaceAll(four, " ", "\u2013"),
			strings.ReplaceAll(four, " ", "\u200b"), strings.ReplaceAll(four, " ", "\t"),
			strings.Join(strings.Split(number, ""), "."),
			"2026-11-29T18:57:40 " + number, "2026-11-29T18:57:40.317260079Z-" + four, "18:57:40 " + number,
			number + " 2026-11-29T18:57:40Z", four + "-18:57:40.317260079",
			inScript(number, '０'), inScript(four, '٠'), inScript(number, '𝟘'),
			strings.Repeat("1 ", 100) + number, "+49 " + number} {
			if !cards.In(text) {
				t.Errorf("%q holds no card number", text)
			}
		}
	}
}

func TestLeavesAlone(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "1", "4242424242424241", "1234567812345670", "42424242424242424242424242424242",
		"4242  4242  4242  4242", "4242x4242x4242x4242",
		"+4915112345678", "+4222222222222", "0.4242424242424242", "MUG-ONCE", inScript("4242424242424241", '０'),
		"2026-11-29T18:57:40.317260079Z", "1732500000000", "1732500000000000",
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

// Clients name an attempt after its time, in one of many forms.
func TestNoTimeIsACard(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		second := rapid.Int64Range(0, 4e9).Draw(t, "second") // until 2096
		at := time.Unix(second, rapid.Int64Range(0, 999999999).Draw(t, "nanosecond"))
		at = at.In(time.FixedZone("", 900*rapid.IntRange(-48, 56).Draw(t, "quarters of an hour")))
		for _, form := range []string{time.RFC3339Nano, time.StampNano, time.RFC1123Z, "15:04:05.000000000",
			"2006-01-02 15:04:05.999999-07", "2006-01-02 15:04:05.000000000 -0700 MST", "2006/01/02 15:04:05.000000",
			"2006-01-02_15-04-05-000000", "2006-01-02-15-04-05-000", "2006.01.02-15.04.05.000000",
			"2006-01-02T15:04:05,000000000", "20060102T150405.000000000Z", "20060102150405.000000"} {
			text := at.Format(form)
			for _, text := range []string{text, "order-" + text, text + "-1", "at " + text + ", try 2"} {
				if cards.In(text) {
					t.Fatalf("%q is taken for a card number", text)
				}
			}
		}
	})
}

// inScript writes the digits with those of another script, which begin at zero.
func inScript(text string, zero rune) string {
	return strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' {
			return zero + c - '0'
		}
		return c
	}, text)
}

// Not one of the keys that clients usually make up is refused.
func TestNoRandomKeyIsACard(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewChaCha8([32]byte{1}))
	bytes := make([]byte, 64)
	for range 20_000 {
		for i := range bytes {
			bytes[i] = byte(random.Uint32())
		}
		keys := []string{
			base64.StdEncoding.EncodeToString(bytes[:16]), base64.RawURLEncoding.EncodeToString(bytes[:32]),
			base32.StdEncoding.EncodeToString(bytes[:20]), base32.HexEncoding.EncodeToString(bytes[:16]),
		}
		for _, size := range []int{8, 10, 12, 16, 20, 32, 64} {
			id := hex.EncodeToString(bytes[:size])
			if letters := strings.FieldsFunc(id, isNoLetter); size <= 10 && len(strings.Join(letters, "")) <= 2 {
				continue // nothing tells it from a card number and a letter
			}
			keys = append(keys, id, strings.ToUpper(id), "key_"+id, "order:"+id+":1")
		}
		id := uuid.UUID(bytes[:16]).String()
		for _, key := range append(keys, id, "order-"+id, id+"/1") {
			if cards.In(key) {
				t.Fatalf("%q is taken for a card number", key)
			}
		}
	}
}

func isNoLetter(c rune) bool { return !unicode.IsLetter(c) }

// worst are texts that have cost the most to search: many candidates, inside ids and outside.
var worst = []string{"424242424242424", "4242 ", "4 ", "4242424242424242-", "4-", "4222222222222 42424242-4242-",
	"42424242-4242-4242-9242-424242424242 ", "0.4242424242424242 ", "4006381333931 ", "a4", "+4222222222222 ", "４２",
	"4.4 ", "4242-", "\u200b4", "\U0001fbf9 ", "abc4222222222222 ", "abcdefab4242424242424242 ", "e", "é", "\xff", "-",
	"4242424-"}

// costLimit is of 64 KiB, the largest body.
const costLimit = slower * 10 * time.Millisecond

// wantCheap measures the search of a whole body made of the text. The fastest of some runs counts:
// the machine may be busy with something else.
func wantCheap(t *testing.T, text string, limit time.Duration) {
	t.Helper()
	body := strings.Repeat(text, 64<<10/len(text)+1)[:64<<10]
	fastest := time.Hour
	for try := 0; try < 10 && fastest > limit; try++ {
		begin := time.Now()
		cards.In(body)
		fastest = min(fastest, time.Since(begin))
	}
	if fastest > limit {
		t.Errorf("64 KiB of %.80q take %s, want %s", text, fastest, limit)
	}
}

//nolint:paralleltest // it measures time
func TestWorstBodiesAreCheap(t *testing.T) {
	for _, text := range worst {
		wantCheap(t, text, costLimit)
		for _, other := range worst {
			wantCheap(t, text+other, costLimit)
		}
	}
}

func FuzzIn(f *testing.F) {
	for _, text := range append(worst, numbers...) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		// Whatever stands around it, apart by something that is no part of a number, a card number
		// is found.
		if !cards.In(text + "; " + numbers[0] + "; " + text) {
			t.Errorf("%q hides a card number", text)
		}
		if text != "" {
			wantCheap(t, text, 10*costLimit) // the fuzzer counts each branch, which takes its time
		}
	})
}

func BenchmarkIn(b *testing.B) {
	body := `{"email":"alice@example.com","lines":[{"sku":"MUG-ONCE","quantity":2},{"sku":"PIN-KEY","quantity":1}]}`
	for b.Loop() {
		cards.In(body)
	}
}
