package twin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// value is a JSON value that keeps the order of members and the spelling of numbers.
type value struct {
	scalar  any // nil, bool, string or json.Number
	kind    json.Delim
	names   []string // of an object's members
	members []value
}

// parseJSON reads a JSON object.
func parseJSON(text []byte) (value, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	v, err := readValue(decoder)
	if err == nil && v.kind != '{' {
		err = errors.New("not a JSON object")
	}
	if err == nil {
		if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("more than one value")
		}
	}
	return v, err
}

func readValue(decoder *json.Decoder) (value, error) {
	token, err := decoder.Token()
	if err != nil {
		return value{}, err
	}
	open, ok := token.(json.Delim)
	if !ok {
		return value{scalar: token}, nil
	}
	v := value{kind: open}
	for decoder.More() {
		if open == '{' {
			name, err := decoder.Token()
			if err != nil {
				return v, err
			}
			v.names = append(v.names, fmt.Sprint(name))
		}
		member, err := readValue(decoder)
		if err != nil {
			return v, err
		}
		v.members = append(v.members, member)
	}
	_, err = decoder.Token()
	return v, err
}

// respelled returns the object with its members in reverse order, more white space, and the first
// letter of texts escaped.
func (v value) respelled() []byte {
	var b bytes.Buffer
	v.write(&b)
	return b.Bytes()
}

func (v value) write(b *bytes.Buffer) {
	switch v.kind {
	case 0:
		b.WriteString(escaped(v.scalar))
		return
	case '[':
		b.WriteString("[ ")
		for n, member := range v.members {
			if n > 0 {
				b.WriteString(" ,\n ")
			}
			member.write(b)
		}
		b.WriteString(" ]")
		return
	}
	b.WriteString("{ ")
	for n := range slices.Backward(v.names) {
		b.WriteString(quoted(v.names[n]) + " :\t")
		v.members[n].write(b)
		if n > 0 {
			b.WriteString(" ,\n ")
		}
	}
	b.WriteString(" }")
}

// escaped spells a text with its first letter as \uXXXX.
func escaped(scalar any) string {
	text, ok := scalar.(string)
	if !ok || text == "" || text[0] >= 0x80 {
		return quoted(scalar)
	}
	return fmt.Sprintf(`"\u%04x`, text[0]) + strings.TrimPrefix(quoted(text[1:]), `"`)
}

func quoted(scalar any) string {
	text, err := json.Marshal(scalar)
	if err != nil {
		panic(err) // a scalar that came from JSON
	}
	return string(text)
}

// plain returns the value without white space.
func (v value) plain() string {
	if v.kind == 0 {
		return quoted(v.scalar)
	}
	parts := make([]string, len(v.members))
	for n, member := range v.members {
		parts[n] = member.plain()
		if v.kind == '{' {
			parts[n] = quoted(v.names[n]) + ":" + parts[n]
		}
	}
	if v.kind == '{' {
		return "{" + strings.Join(parts, ",") + "}"
	}
	return "[" + strings.Join(parts, ",") + "]"
}

// reverseList reverses the first list that is another one in reverse, and reports whether there is
// one.
func (v value) reverseList() bool {
	if v.kind == '[' {
		before := v.plain()
		slices.Reverse(v.members)
		if v.plain() != before {
			return true
		}
	}
	return slices.ContainsFunc(v.members, value.reverseList)
}

var wholeNumber = regexp.MustCompile(`([:\[,]\s*-?(?:0|[1-9]\d*))(\s*[,\]}])`)

// withFraction spells the first whole number n of the body as n.0. It returns nil if there is none.
func withFraction(body []byte) []byte {
	at := wholeNumber.FindSubmatchIndex(body)
	if at == nil {
		return nil
	}
	other := slices.Concat(body[:at[3]], []byte(".0"), body[at[3]:])
	var was, is any // numbers are floats here; a number inside a text would make a difference
	if json.Unmarshal(body, &was) != nil || json.Unmarshal(other, &is) != nil || !reflect.DeepEqual(was, is) {
		return nil
	}
	return other
}

// withNull adds a member that is null to an object.
func withNull(body []byte, name string) []byte {
	end := bytes.LastIndexByte(body, '}')
	comma := ","
	if bytes.HasSuffix(bytes.TrimSpace(body[:end]), []byte("{")) {
		comma = ""
	}
	return slices.Concat(body[:end], []byte(comma+quoted(name)+":null"), body[end:])
}
