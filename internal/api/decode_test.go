package api_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/api"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/problem"
)

// FuzzDecode compares how the API reads the body of an order with encoding/json, told what the API
// is stricter about: what is taken means what was written, with every member known and said once,
// and nothing that is well written is refused.
func FuzzDecode(f *testing.F) {
	for _, body := range []string{
		`{"email":"alice@example.com","lines":[{"sku":"MUG-ONCE","quantity":2}]}`,
		" {\"lines\" : [ {\"quantity\":1,\"sku\":\"\\u00e4\\ud83d\\ude00\"}, {} ],\n\"email\":\"\"} \n",
		`{"email":"a@example.com","email":"b@example.com"}`,
		`{"lines":[{"sku":"a","sku":"b"}]}`,
		`{"email":"a","\u0065mail":"b"}`,
		`{"Email":"a@example.com"}`,
		`{"email":"a@example.com","note":"x"}`,
		`{"customer_id":"00000000-0000-0000-0000-000000000001","Key":"k","CustomerID":""}`,
		`{"email":"a\u0000"}`, `{"email":"\\u0000"}`, `{"lines":[{"sku":"\u0000"}]}`, `{"expected_total":null}`,
		`{"email":null,"lines":null}`, `{"lines":[null]}`,
		`{"lines":[{"quantity":1.0},{"quantity":1e2},{"quantity":9223372036854775808}]}`,
		`{"lines":[{"quantity":"1"},{"quantity":-0}]}`,
		`{"email":"\ud800"}`, "{\"email\":\"\xff\"}", "\ufeff{}",
		`null`, ` null `, `[]`, `1`, `""`, ``, `{}{}`, `{} x`, `{"email"`, `{"email":"a",}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		scope := orders.PlaceOrder{CustomerID: uuid.Max, Key: "key"}
		got := scope
		err := read(body, &got)
		if well, why := wellWritten(body); (err == nil) != (why == "") {
			t.Fatalf("%q is read as %+v, %v; written %s", body, got, err, why)
		} else if err != nil {
			invalid, ok := errors.AsType[problem.InvalidError](err)
			if !ok || invalid.Reason == "" {
				t.Fatalf("%q: %v tells the client nothing", body, err)
			}
			return
		} else if well.CustomerID, well.Key = scope.CustomerID, scope.Key; !reflect.DeepEqual(got, well) {
			t.Fatalf("%q is read as %+v, want %+v", body, got, well)
		}
		written, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		again := scope
		if err := read(written, &again); err != nil || again.Fingerprint() != got.Fingerprint() {
			t.Fatalf("%q, written again as %s, is %+v, %v", body, written, again, err)
		}
	})
}

func read(body []byte, into any) error {
	request := httptest.NewRequest(http.MethodPost, "/v1/orders", bytes.NewReader(body))
	return api.Decode(echo.New().NewContext(request, httptest.NewRecorder()), into)
}

// lone is half of a surrogate pair; encoding/json would replace it.
var lone = regexp.MustCompile(`(?i)\\u(d[89ab]..\\ud[c-f]..|(d[89a-f]..))`)

// wellWritten returns the order that the body means, or why it means none.
func wellWritten(body []byte) (c orders.PlaceOrder, why string) {
	if !utf8.Valid(body) {
		return c, "with bytes that are no text"
	}
	if !strings.HasPrefix(strings.TrimLeft(string(body), " \t\r\n"), "{") {
		return c, "as no object"
	}
	for _, match := range lone.FindAllStringSubmatch(strings.ReplaceAll(string(body), `\\`, ``), -1) {
		if match[2] != "" {
			return c, "with half a character"
		}
	}
	tokens := json.NewDecoder(bytes.NewReader(body))
	if why := members(tokens, map[string]bool{"email": true, "lines": true,
		"expected_total": true, "currency": true}); why != "" {
		return c, why
	}
	if _, err := tokens.Token(); !errors.Is(err, io.EOF) {
		return c, "with more behind it"
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return c, err.Error()
	}
	texts := c.Email + c.Currency
	for _, line := range c.Lines {
		texts += line.SKU
	}
	if strings.Contains(texts, "\x00") {
		return c, "with U+0000"
	}
	return c, ""
}

// members walks one value. It finds names that are unknown or said twice: "" for none.
func members(tokens *json.Decoder, known map[string]bool) string {
	token, err := tokens.Token()
	if err != nil {
		return err.Error()
	}
	switch token {
	case json.Delim('{'):
		said := map[string]bool{}
		for tokens.More() {
			token, err := tokens.Token()
			name, _ := token.(string)
			if err != nil || said[name] || !known[name] {
				return "with an unknown or repeated member"
			}
			said[name] = true
			if why := members(tokens, map[string]bool{"sku": true, "quantity": true}); why != "" {
				return why
			}
		}
	case json.Delim('['):
		for tokens.More() {
			if why := members(tokens, map[string]bool{"sku": true, "quantity": true}); why != "" {
				return why
			}
		}
	default:
		return ""
	}
	if _, err := tokens.Token(); err != nil {
		return err.Error()
	}
	return ""
}
