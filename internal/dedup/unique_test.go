package dedup_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf16"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestParseKey(t *testing.T) {
	t.Parallel()
	visible := ""
	for c := byte('!'); c <= '~'; c++ {
		visible += string(c)
	}
	long := strings.Repeat("k", 255)
	for _, test := range []struct {
		name, header string
		key          dedup.Key
		err          error
	}{
		{name: "bare", header: "abc", key: "abc"},
		{name: "one character", header: "k", key: "k"},
		{name: "every visible character", header: visible, key: dedup.Key(visible)},
		{name: "a UUID", header: "8e03978e-40d5-43e8-bc93-6894a57f9324", key: "8e03978e-40d5-43e8-bc93-6894a57f9324"},
		{name: "quoted", header: `"abc"`, key: "abc"},
		{name: "quoted with escapes", header: `"a\"b\\c"`, key: `a"b\c`},
		{name: "a bare backslash is itself", header: `a\"b`, key: `a\"b`},
		{name: "a quote inside a bare key", header: `a"b`, key: `a"b`},
		{name: "a quote at the end of a bare key", header: `abc"`, key: `abc"`},
		{name: "255 characters", header: long, key: dedup.Key(long)},
		{name: "255 characters, quoted", header: `"` + long + `"`, key: dedup.Key(long)},
		{name: "255 characters, each escaped", header: `"` + strings.Repeat(`\\`, 255) + `"`,
			key: dedup.Key(strings.Repeat(`\`, 255))},

		{name: "nothing", header: "", err: dedup.ErrKeyMissing},
		{name: "256 characters", header: long + "k", err: dedup.ErrKeyInvalid},
		{name: "256 characters, quoted", header: `"` + long + `k"`, err: dedup.ErrKeyInvalid},
		{name: "an empty string", header: `""`, err: dedup.ErrKeyInvalid},
		{name: "a lone quote", header: `"`, err: dedup.ErrKeyInvalid},
		{name: "no closing quote", header: `"abc`, err: dedup.ErrKeyInvalid},
		{name: "the closing quote is escaped", header: `"abc\"`, err: dedup.ErrKeyInvalid},
		{name: "ends in an escape", header: `"abc\`, err: dedup.ErrKeyInvalid},
		{name: "an escaped letter", header: `"a\bc"`, err: dedup.ErrKeyInvalid},
		{name: "more after the closing quote", header: `"abc"d`, err: dedup.ErrKeyInvalid},
		{name: "parameters after the closing quote", header: `"abc";v=1`, err: dedup.ErrKeyInvalid},
		{name: "a space after the closing quote", header: `"abc" `, err: dedup.ErrKeyInvalid},
		{name: "two strings", header: `"abc""def"`, err: dedup.ErrKeyInvalid},
		{name: "a space", header: "a b", err: dedup.ErrKeyInvalid},
		{name: "a quoted space", header: `"a b"`, err: dedup.ErrKeyInvalid},
		{name: "a space in front", header: " abc", err: dedup.ErrKeyInvalid},
		{name: "only a space", header: " ", err: dedup.ErrKeyInvalid},
		{name: "a tab", header: "a\tb", err: dedup.ErrKeyInvalid},
		{name: "a line break", header: "a\nb", err: dedup.ErrKeyInvalid},
		{name: "a zero byte", header: "a\x00b", err: dedup.ErrKeyInvalid},
		{name: "an escape character", header: "\"a\x1bb\"", err: dedup.ErrKeyInvalid},
		{name: "a delete character", header: "a\x7fb", err: dedup.ErrKeyInvalid},
		{name: "a letter beyond ASCII", header: "schlüssel", err: dedup.ErrKeyInvalid},
		{name: "a quoted letter beyond ASCII", header: `"schlüssel"`, err: dedup.ErrKeyInvalid},
		{name: "bytes that are no text", header: "a\xffb", err: dedup.ErrKeyInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			key, err := dedup.ParseKey(test.header)
			if key != test.key || !errors.Is(err, test.err) {
				t.Errorf("ParseKey(%q) = %q, %v; want %q, %v", test.header, key, err, test.key, test.err)
			}
		})
	}
}

// Whatever a client sends, a key that is accepted is well formed, and the header is that key, bare,
// or its one quoted form.
func FuzzParseKey(f *testing.F) {
	f.Fuzz(func(t *testing.T, header string) {
		key, err := dedup.ParseKey(header)
		if err != nil {
			if key != "" || (!errors.Is(err, dedup.ErrKeyInvalid) && !errors.Is(err, dedup.ErrKeyMissing)) {
				t.Fatalf("ParseKey(%q) = %q, %v", header, key, err)
			}
			if wellFormed(header) && header[0] != '"' {
				t.Fatalf("ParseKey(%q) refuses a bare key: %v", header, err)
			}
			return
		}
		if !wellFormed(string(key)) {
			t.Fatalf("ParseKey(%q) accepts the key %q", header, key)
		}
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(string(key)) + `"`
		switch {
		case header[0] == '"' && header != quoted:
			t.Fatalf("ParseKey(%q) = %q, which is quoted as %q", header, key, quoted)
		case header[0] != '"' && header != string(key):
			t.Fatalf("ParseKey(%q) = %q, another than the bare key", header, key)
		}
		if again, err := dedup.ParseKey(quoted); again != key || err != nil {
			t.Fatalf("ParseKey(%q) = %q, but quoted as %q it is %q, %v", header, key, quoted, again, err)
		}
		if again, err := dedup.ParseKey(string(key)); key[0] != '"' && (again != key || err != nil) {
			t.Fatalf("ParseKey(%q) = %q, but bare it is %q, %v", header, key, again, err)
		}
	})
}

// wellFormed says whether the text is 1 to 255 visible ASCII characters.
func wellFormed(text string) bool {
	return len(text) >= 1 && len(text) <= 255 && !strings.ContainsFunc(text, func(c rune) bool {
		return c < '!' || c > '~'
	})
}

func TestKeyHashHidesTheKey(t *testing.T) {
	t.Parallel()
	key := dedup.Key("secret")
	hash := key.Hash()
	if len(hash) != 12 || strings.Contains(hash, string(key)) {
		t.Errorf("the hash is %q, want 12 digits", hash)
	}
	if hash != dedup.Key("secret").Hash() {
		t.Error("the same key has two hashes")
	}
	if hash == dedup.Key("secrets").Hash() {
		t.Error("two keys have one hash")
	}
}

type command struct {
	Email string `json:"email"`
	Lines []line `json:"lines"`
	Note  string `json:"note,omitempty"`
}

type line struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

// Few values, so that equal commands are drawn often.
var commands = rapid.Custom(func(t *rapid.T) command {
	lines := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) line {
		return line{SKU: rapid.SampledFrom([]string{"mug", "cap"}).Draw(t, "sku"),
			Quantity: rapid.Int64Range(1, 2).Draw(t, "quantity")}
	}), 0, 2).Draw(t, "lines")
	email := rapid.SampledFrom([]string{"a@example.com", "A@example.com", "ä@example.com"}).Draw(t, "email")
	return command{Email: email, Lines: lines, Note: rapid.SampledFrom([]string{"", "<b>"}).Draw(t, "note")}
})

func TestFingerprintIsTheMeaning(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := commands.Draw(t, "a"), commands.Draw(t, "b")
		same := dedup.FingerprintOf(a) == dedup.FingerprintOf(b)
		if want := reflect.DeepEqual(a, b); same != want {
			t.Fatalf("same fingerprint: %t, same meaning: %t", same, want)
		}
	})
}

func TestFingerprintIgnoresHowJSONIsWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		meant := commands.Draw(t, "command")
		var read command
		if err := json.Unmarshal(writeJSON(t, meant), &read); err != nil {
			t.Fatal(err)
		}
		if dedup.FingerprintOf(read) != dedup.FingerprintOf(meant) {
			t.Fatalf("%+v has another fingerprint than %+v", read, meant)
		}
	})
}

// FuzzFingerprint takes any body that is a command: written in another way it has the same
// fingerprint, and with any one of its values changed another.
func FuzzFingerprint(f *testing.F) {
	for i, body := range []string{
		`{"email":"a@example.com","lines":[{"sku":"mug","quantity":2},{"sku":"cap","quantity":1}],"note":"<b>"}`,
		`{"lines":[],"email":"\u00e4@example.com"}`,
		`{"email":"\u2028\ud83d\ude00\u0000","lines":[{"quantity":9223372036854775807,"sku":"\""}]}`,
		`{"email":"","lines":[{"sku":"a","quantity":1},{"sku":"a","quantity":1},{}],"note":null}`,
		`{}`,
	} {
		f.Add([]byte(body), uint64(i), uint8(i))
	}
	f.Fuzz(func(t *testing.T, body []byte, seed uint64, change uint8) {
		var meant, read command
		if json.Unmarshal(body, &meant, json.RejectUnknownMembers(true)) != nil {
			return
		}
		fingerprint := dedup.FingerprintOf(meant)
		written := rewrite(t, rand.New(rand.NewPCG(seed, 0)), body)
		if err := json.Unmarshal(written, &read, json.RejectUnknownMembers(true)); err != nil {
			t.Fatalf("%s, written as %s: %v", body, written, err)
		}
		if dedup.FingerprintOf(read) != fingerprint {
			t.Fatalf("%s, written as %s, has another fingerprint", body, written)
		}
		if other := changed(meant, change); dedup.FingerprintOf(other) == fingerprint {
			t.Fatalf("%+v and %+v have one fingerprint", meant, other)
		}
	})
}

// changed is the command with another value in one place, which the number chooses.
func changed(c command, place uint8) command {
	c.Lines = slices.Clone(c.Lines)
	if len(c.Lines) > 0 {
		l := &c.Lines[int(place/8)%len(c.Lines)]
		switch place % 8 {
		case 0:
			l.SKU += "x"
			return c
		case 1:
			l.Quantity ^= 1
			return c
		case 2:
			c.Lines = c.Lines[1:]
			return c
		case 3: // from one line to its neighbor
			if last := &c.Lines[len(c.Lines)-1]; l != last && l.SKU != last.SKU {
				l.SKU, last.SKU = last.SKU, l.SKU
				return c
			}
		}
	}
	switch place % 3 {
	case 0:
		c.Email += " "
	case 1:
		c.Note += "\x00"
	default:
		c.Lines = append(c.Lines, line{})
	}
	return c
}

// rewrite writes the same JSON with the members of each object in another order, other white space
// and every string escaped.
func rewrite(t *testing.T, random *rand.Rand, value jsontext.Value) []byte {
	t.Helper()
	space := func() string { return []string{"", " ", "\r\n", "\t"}[random.IntN(4)] }
	join := func(open, end string, parts []string) []byte {
		return []byte(open + space() + strings.Join(parts, space()+","+space()) + space() + end)
	}
	var parts []string
	switch value.Kind() {
	case '{':
		members := map[string]jsontext.Value{}
		if err := json.Unmarshal(value, &members); err != nil {
			t.Fatal(err)
		}
		for name, member := range members {
			parts = append(parts, escaped(name)+space()+":"+space()+string(rewrite(t, random, member)))
		}
		slices.Sort(parts)
		random.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		return join("{", "}", parts)
	case '[':
		var items []jsontext.Value
		if err := json.Unmarshal(value, &items); err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			parts = append(parts, string(rewrite(t, random, item)))
		}
		return join("[", "]", parts)
	case '"':
		var text string
		if err := json.Unmarshal(value, &text); err != nil {
			t.Fatal(err)
		}
		return []byte(escaped(text))
	default:
		return bytes.TrimSpace(value)
	}
}

// escaped is a JSON string that writes every character as its number.
func escaped(text string) string {
	var out strings.Builder
	for _, unit := range utf16.Encode([]rune(text)) {
		fmt.Fprintf(&out, `\u%04x`, unit)
	}
	return `"` + out.String() + `"`
}

// writeJSON writes the command with its members in a drawn order, and drawn white space between
// them.
func writeJSON(t *rapid.T, c command) []byte {
	encode := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	space := func() string { return rapid.SampledFrom([]string{"", " ", "\n\t"}).Draw(t, "space") }
	object := func(members ...string) string {
		members = rapid.Permutation(members).Draw(t, "order")
		return "{" + space() + strings.Join(members, space()+","+space()) + space() + "}"
	}
	lines := make([]string, 0, len(c.Lines))
	for _, l := range c.Lines {
		lines = append(lines, object(`"sku":`+space()+encode(l.SKU),
			fmt.Sprintf(`"quantity":%s%d`, space(), l.Quantity)))
	}
	return []byte(object(`"email":`+encode(c.Email), `"note":`+space()+encode(c.Note),
		`"lines":[`+space()+strings.Join(lines, ",")+"]"))
}

// Rows that an earlier release wrote must still be recognized.
func TestFingerprintStaysTheSame(t *testing.T) {
	t.Parallel()
	c := command{Email: "\u00e4\u2028&@example.com", Lines: []line{{SKU: "mug", Quantity: 2}}, Note: "<b>"}
	const want = "01b2827772fd4c0c35ea91249ae6714e0d5d4dd4d4f0e99b4808da3c62ceb1de"
	if got := fmt.Sprintf("%x", dedup.FingerprintOf(c)); got != want {
		t.Errorf("the fingerprint is %s, was %s", got, want)
	}
}

func TestFingerprintRefusesWhatIsNotACommand(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("a command that cannot be marshaled has a fingerprint")
		}
	}()
	dedup.FingerprintOf(make(chan int))
}

// table stands for a table whose rows have UNIQUE keys.
type table struct {
	mu   sync.Mutex
	rows map[string]dedup.Row
}

func (tb *table) find(key string) (dedup.Row, error) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	row, ok := tb.rows[key]
	if !ok {
		return dedup.Row{}, dedup.ErrNoRow
	}
	return row, nil
}

func (tb *table) insert(key string, row dedup.Row) error {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if _, ok := tb.rows[key]; ok {
		return dedup.ErrKeyTaken
	}
	tb.rows[key] = row
	return nil
}

// request inserts a row with an answer of its own, and fails as told afterwards.
func (tb *table) request(key string, c command, after error) dedup.Request {
	print := dedup.FingerprintOf(c)
	return dedup.Request{
		Fingerprint: print,
		Find:        func(context.Context) (dedup.Row, error) { return tb.find(key) },
		Do: func(context.Context) (dedup.Answer, error) {
			id := uuid.New()
			answer := dedup.Answer{ID: id, Status: 201, Body: []byte(id.String()), Final: true}
			err := tb.insert(key, dedup.Row{ID: id, Fingerprint: print[:], Answer: answer})
			return answer, cmp.Or(err, after)
		},
	}
}

func TestOnceReplays(t *testing.T) {
	t.Parallel()
	tb := &table{rows: map[string]dedup.Row{}}
	asked := command{Email: "a@example.com"}
	first, err := dedup.Once(t.Context(), tb.request("k", asked, nil))
	if err != nil || first.Replayed || first.StoppedBy != "" {
		t.Fatalf("the first request gets %+v, %v", first, err)
	}
	want := first
	want.Replayed, want.StoppedBy = true, dedup.ByKey
	if again, err := dedup.Once(t.Context(), tb.request("k", asked, nil)); err != nil ||
		!reflect.DeepEqual(again, want) {
		t.Errorf("the second request gets %+v, %v; want %+v", again, err, want)
	}
	if other, err := dedup.Once(t.Context(), tb.request("other", asked, nil)); err != nil || other.Replayed {
		t.Errorf("a request with another key gets %+v, %v", other, err)
	}
}

// Twins that run at the same time all get the winner's answer.
func TestOnceHasOneWinner(t *testing.T) {
	t.Parallel()
	for range 100 {
		tb := &table{rows: map[string]dedup.Row{}}
		answers := shoptest.Race(20, func(int) dedup.Answer {
			answer, err := dedup.Once(t.Context(), tb.request("k", command{}, nil))
			if err != nil {
				t.Error(err)
			}
			return answer
		})
		firsts := 0
		for _, answer := range answers {
			if !answer.Replayed {
				firsts++
			}
			if answer.ID != answers[0].ID {
				t.Errorf("two answers: %s and %s", answer.ID, answers[0].ID)
			}
		}
		if firsts != 1 {
			t.Fatalf("%d requests were carried out, want 1", firsts)
		}
	}
}

// A fingerprint of an earlier version cannot be compared: its key gets the answer, not 422.
func TestOnceAcrossFingerprintVersions(t *testing.T) {
	t.Parallel()
	earlier := dedup.FingerprintOf(command{Email: "a@example.com"})
	earlier[0]++
	first := final("mug")
	answer, err := dedup.Once(t.Context(), dedup.Request{
		Fingerprint: dedup.FingerprintOf(command{Email: "a@example.com", Note: "new"}),
		Find: func(context.Context) (dedup.Row, error) {
			return dedup.Row{ID: first.ID, Fingerprint: earlier[:], Answer: first}, nil
		}})
	if err != nil || !answer.Replayed || answer.ID != first.ID {
		t.Errorf("%+v, %v", answer, err)
	}
}

// A row whose answer was erased answers no meaning and does nothing.
func TestOnceRefusesErased(t *testing.T) {
	t.Parallel()
	asked := dedup.FingerprintOf(command{Email: "a@example.com"})
	for name, stored := range map[string][]byte{"its": asked[:], "no": make([]byte, 32)} {
		answer, err := dedup.Once(t.Context(),
			dedup.Request{Fingerprint: asked, Find: func(context.Context) (dedup.Row, error) {
				return dedup.Row{Fingerprint: stored, Answer: dedup.Answer{Status: 201, Body: []byte{}}}, nil
			}})
		if !errors.Is(err, dedup.ErrErased) || !reflect.DeepEqual(answer, dedup.Answer{}) {
			t.Errorf("an erased row with %s fingerprint gets %+v, %v", name, answer, err)
		}
	}
}

func TestOnceRefusesAnotherMeaning(t *testing.T) {
	t.Parallel()
	asked := dedup.FingerprintOf(command{Email: "a@example.com"})
	other := dedup.FingerprintOf(command{Email: "b@example.com"})
	id := uuid.New()
	for name, stored := range map[string][]byte{"another": other[:], "no": nil, "a cut": asked[:31],
		"an extended": append(bytes.Clone(asked[:]), 0)} {
		answer, err := dedup.Once(t.Context(),
			dedup.Request{Fingerprint: asked, Find: func(context.Context) (dedup.Row, error) {
				return dedup.Row{ID: id, Fingerprint: stored, Answer: final("mug")}, nil
			}})
		reused, ok := errors.AsType[dedup.KeyReusedError](err)
		if !ok || reused.ID != id || !errors.Is(err, dedup.ErrKeyReused) || !reflect.DeepEqual(answer, dedup.Answer{}) {
			t.Errorf("a row with %s fingerprint gets %+v, %v; want KeyReusedError and no answer", name, answer, err)
		}
	}
}

func TestOnceWhileTheFirstRuns(t *testing.T) {
	t.Parallel()
	asked := dedup.FingerprintOf(command{})
	id := uuid.New()
	_, err := dedup.Once(t.Context(), dedup.Request{Fingerprint: asked, Find: func(context.Context) (dedup.Row, error) {
		return dedup.Row{ID: id, Fingerprint: asked[:]}, nil
	}})
	if running, ok := errors.AsType[dedup.InProgressError](err); !ok || running.ID != id ||
		!errors.Is(err, dedup.ErrInProgress) {
		t.Errorf("got %v, want InProgressError", err)
	}
}

// A COMMIT whose reply was lost took effect if the row is there, also when the client has gone.
func TestOnceResolvesALostCommit(t *testing.T) {
	t.Parallel()
	tb := &table{rows: map[string]dedup.Row{}}
	asked := command{Email: "a@example.com"}
	gone, cancel := context.WithCancel(t.Context())
	request := tb.request("k", asked, pg.ErrCommitUnknown)
	do, find := request.Do, request.Find
	request.Do = func(ctx context.Context) (dedup.Answer, error) {
		defer cancel()
		return do(ctx)
	}
	request.Find = func(ctx context.Context) (dedup.Row, error) {
		if err := ctx.Err(); err != nil {
			return dedup.Row{}, err
		}
		return find(ctx)
	}
	answer, err := dedup.Once(gone, request)
	if err != nil || answer.Replayed || answer.ID != tb.rows["k"].ID {
		t.Errorf("its own row stands: got %+v, %v", answer, err)
	}

	twin, err := dedup.Once(t.Context(), dedup.Request{Fingerprint: dedup.FingerprintOf(asked),
		Find: func() func(context.Context) (dedup.Row, error) {
			asked := 0
			return func(context.Context) (dedup.Row, error) {
				if asked++; asked == 1 {
					return dedup.Row{}, dedup.ErrNoRow
				}
				return tb.find("k")
			}
		}(),
		Do: func(context.Context) (dedup.Answer, error) {
			return dedup.Answer{ID: uuid.New(), Status: 201}, pg.ErrCommitUnknown
		}})
	if err != nil || !twin.Replayed || twin.ID != answer.ID {
		t.Errorf("a twin's row stands: got %+v, %v, want its replay", twin, err)
	}

	none, err := dedup.Once(t.Context(), dedup.Request{
		Find: func(context.Context) (dedup.Row, error) { return dedup.Row{}, dedup.ErrNoRow },
		Do:   func(context.Context) (dedup.Answer, error) { return dedup.Answer{}, pg.ErrCommitUnknown }})
	if !errors.Is(err, pg.ErrCommitUnknown) || !reflect.DeepEqual(none, dedup.Answer{}) {
		t.Errorf("no row stands: got %+v, %v, want ErrCommitUnknown", none, err)
	}
}

// A winner that fails after it took the key leaves the key to the next request.
func TestOnceAfterAWinnerThatFailed(t *testing.T) {
	t.Parallel()
	tb := &table{rows: map[string]dedup.Row{}}
	request := tb.request("k", command{}, nil)
	do, tries := request.Do, 0
	request.Do = func(ctx context.Context) (dedup.Answer, error) {
		if tries++; tries < 3 {
			return dedup.Answer{}, dedup.ErrKeyTaken
		}
		return do(ctx)
	}
	if answer, err := dedup.Once(t.Context(), request); err != nil || answer.Replayed || tries != 3 {
		t.Errorf("%+v, %v after %d tries", answer, err, tries)
	}
	request.Do = func(context.Context) (dedup.Answer, error) { return dedup.Answer{}, dedup.ErrKeyTaken }
	request.Find = func(context.Context) (dedup.Row, error) { return dedup.Row{}, dedup.ErrNoRow }
	if _, err := dedup.Once(t.Context(), request); !errors.Is(err, dedup.ErrInProgress) {
		t.Errorf("a key that stays taken without a row: %v, want ErrInProgress", err)
	}
}
