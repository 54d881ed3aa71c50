package dedup_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/onceshop/onceshop/internal/dedup"
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
		{name: "255 characters, each escaped", header: `"` + strings.Repeat(`\\`, 255) + `"`, key: dedup.Key(strings.Repeat(`\`, 255))},

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

// Whatever a client sends, a key that is accepted is well formed and is the same key when it comes quoted.
func FuzzParseKey(f *testing.F) {
	f.Fuzz(func(t *testing.T, header string) {
		key, err := dedup.ParseKey(header)
		if err != nil {
			if key != "" || (!errors.Is(err, dedup.ErrKeyInvalid) && !errors.Is(err, dedup.ErrKeyMissing)) {
				t.Fatalf("ParseKey(%q) = %q, %v", header, key, err)
			}
			return
		}
		if len(key) < 1 || len(key) > 255 || strings.ContainsFunc(string(key), func(c rune) bool { return c < '!' || c > '~' }) {
			t.Fatalf("ParseKey(%q) accepts the key %q", header, key)
		}
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(string(key)) + `"`
		if again, err := dedup.ParseKey(quoted); again != key || err != nil {
			t.Fatalf("ParseKey(%q) = %q, but quoted as %q it is %q, %v", header, key, quoted, again, err)
		}
		if !strings.HasPrefix(string(key), `"`) {
			if again, err := dedup.ParseKey(string(key)); again != key || err != nil {
				t.Fatalf("ParseKey(%q) = %q, but bare it is %q, %v", header, key, again, err)
			}
		}
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
		return line{SKU: rapid.SampledFrom([]string{"mug", "cap"}).Draw(t, "sku"), Quantity: rapid.Int64Range(1, 2).Draw(t, "quantity")}
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

// writeJSON writes the command with its members in a drawn order, and drawn white space between them.
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
		lines = append(lines, object(`"sku":`+space()+encode(l.SKU), fmt.Sprintf(`"quantity":%s%d`, space(), l.Quantity)))
	}
	return []byte(object(`"email":`+encode(c.Email), `"note":`+space()+encode(c.Note), `"lines":[`+space()+strings.Join(lines, ",")+"]"))
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

func TestReplay(t *testing.T) {
	t.Parallel()
	asked := dedup.FingerprintOf(command{Email: "a@example.com"})
	other := dedup.FingerprintOf(command{Email: "b@example.com"})
	stored := dedup.Answer{ID: uuid.New(), Status: 201, Body: []byte(`{"id":"1"}`), Final: true}

	answer, err := dedup.Replay(asked[:], asked, stored)
	want := stored
	want.Replayed, want.StoppedBy = true, dedup.ByKey
	if err != nil || !reflect.DeepEqual(answer, want) {
		t.Errorf("the same meaning gets %+v, %v; want %+v", answer, err, want)
	}
	for name, row := range map[string][]byte{"another": other[:], "no": nil, "a cut": asked[:31], "an extended": append(bytes.Clone(asked[:]), 0)} {
		answer, err := dedup.Replay(row, asked, stored)
		if !errors.Is(err, dedup.ErrKeyReused) || !reflect.DeepEqual(answer, dedup.Answer{}) {
			t.Errorf("a row with %s fingerprint gets %+v, %v; want ErrKeyReused and no answer", name, answer, err)
		}
		if reused, ok := errors.AsType[dedup.KeyReusedError](err); !ok || reused.ID != stored.ID {
			t.Errorf("%v does not name what the key stands for", err)
		}
	}
}
