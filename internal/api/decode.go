package api

import (
	"bytes"
	"errors"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/cards"
	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/problem"
)

// keyOf reads the Idempotency-Key header, which must be sent once.
func keyOf(c echo.Context) (dedup.Key, error) {
	switch values := c.Request().Header.Values("Idempotency-Key"); len(values) {
	case 0:
		return "", dedup.ErrKeyMissing
	case 1:
		key, err := dedup.ParseKey(values[0])
		if err == nil && cards.In(string(key)) {
			return "", errCardAsKey
		}
		return key, err
	default:
		return "", dedup.ErrKeyInvalid
	}
}

// decode reads the body strictly: unknown, repeated or wrongly cased members, trailing data and
// wrong types are errors. Ignoring them would hide a client's mistake. A card number anywhere in
// the body is an error too.
func decode(c echo.Context, into any) error {
	body, err := readBody(c)
	if err != nil {
		return err
	}
	return decodeBytes(body, into)
}

// decodeOptional is decode for a request whose body may be empty.
func decodeOptional(c echo.Context, into any) error {
	body, err := readBody(c)
	if err != nil || len(body) == 0 {
		return err
	}
	return decodeBytes(body, into)
}

func decodeBytes(body []byte, into any) error {
	if field, found := cardNumber(body); found {
		return problem.InvalidError{Field: field, Reason: cardReason}
	}
	if field, found := nullCharacter(body); found {
		return problem.InvalidError{Field: field, Reason: "must not contain U+0000"}
	}
	// Unmarshal into &into: a JSON null would otherwise set it to nil and drop the customer and the
	// key.
	err := json.Unmarshal(body, &into, json.RejectUnknownMembers(true))
	var semantic *json.SemanticError
	var syntactic *jsontext.SyntacticError
	switch {
	case err == nil && into == nil:
		return problem.InvalidError{Reason: "the body must be a JSON object"}
	case err == nil:
		return nil
	case len(bytes.TrimSpace(body)) == 0:
		return problem.InvalidError{Reason: "the body must be a JSON object"}
	case errors.As(err, &semantic):
		return problem.InvalidError{Field: field(semantic.JSONPointer), Reason: semanticReason(semantic)}
	case errors.As(err, &syntactic):
		return problem.InvalidError{Field: field(syntactic.JSONPointer),
			Reason: "is not valid JSON: " + reason(syntactic.Err)}
	default:
		return err
	}
}

const cardReason = "looks like a payment card number, which this shop never takes: send the payment_method that " +
	"the provider made of the card"

// cardNumber returns the path of the field that holds a card number. It also checks the names of
// fields, but does not include such a name in the path.
func cardNumber(body []byte) (path string, found bool) {
	// A backslash may hide a digit, or a separator between digits.
	if !cards.In(string(body)) && !bytes.ContainsRune(body, '\\') {
		return "", false
	}
	decoder := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true),
		jsontext.AllowInvalidUTF8(true))
	for {
		token, err := decoder.ReadToken()
		if err != nil {
			return "", false // the body is not valid JSON and is rejected anyway
		}
		kind := token.Kind()
		if (kind == '"' || kind == '0') && cards.In(token.String()) {
			path = field(decoder.StackPointer())
			if cards.In(path) {
				path = "a field's name"
			}
			return path, true
		}
	}
}

// nullCharacter returns the path of the field whose text or name contains U+0000, which no text
// column of the database can hold.
func nullCharacter(body []byte) (path string, found bool) {
	if !bytes.Contains(body, []byte(`u0000`)) { // unescaped, it is not valid JSON
		return "", false
	}
	decoder := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true),
		jsontext.AllowInvalidUTF8(true))
	for {
		token, err := decoder.ReadToken()
		if err != nil {
			return "", false // the body is not valid JSON and is rejected anyway
		}
		if token.Kind() == '"' && strings.Contains(token.String(), "\x00") {
			if path = field(decoder.StackPointer()); strings.Contains(path, "\x00") {
				path = "a field's name"
			}
			return path, true
		}
	}
}

func semanticReason(e *json.SemanticError) string {
	if errors.Is(e.Err, json.ErrUnknownName) {
		return "is not a field of this request"
	}
	if e.GoType != nil {
		switch kind := e.GoType.Kind().String(); kind {
		case "int64":
			return "must be a whole number"
		case "string":
			return "must be a string"
		case "slice":
			return "must be an array"
		default:
			return "must be an object"
		}
	}
	return "has the wrong type"
}

func reason(err error) string {
	if err == nil {
		return "syntax error"
	}
	return strings.TrimPrefix(err.Error(), "jsontext: ")
}

// field converts a JSON pointer to a path: /lines/0/sku becomes lines[0].sku.
func field(pointer jsontext.Pointer) string {
	var path strings.Builder
	for token := range pointer.Tokens() {
		if strings.Trim(token, "0123456789") == "" && path.Len() > 0 {
			path.WriteString("[" + token + "]")
			continue
		}
		if path.Len() > 0 {
			path.WriteString(".")
		}
		path.WriteString(token)
	}
	return path.String()
}
