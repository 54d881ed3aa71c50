package twin

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// JSONPath is a path to one value, in the part of RFC 9535 that needs no list: $.a.b, $['a'] and
// $.a[0].
type JSONPath struct {
	text  string
	steps []string // a member's name, or "#" and an index
}

var pathStep = regexp.MustCompile(`^(?:\.([\pL_][\pL\pN_-]*)|\['([^']*)'\]|\[(\d+)\])`)

// ParseJSONPath reads a path.
func ParseJSONPath(text string) (JSONPath, error) {
	path := JSONPath{text: text}
	rest, ok := strings.CutPrefix(text, "$")
	for ok && rest != "" {
		part := pathStep.FindStringSubmatch(rest)
		if part == nil {
			ok = false
			break
		}
		switch {
		case part[3] != "":
			path.steps = append(path.steps, "#"+part[3])
		case part[1] != "":
			path.steps = append(path.steps, "."+part[1])
		default:
			path.steps = append(path.steps, "."+part[2])
		}
		rest = rest[len(part[0]):]
	}
	if !ok {
		return path, fmt.Errorf("%q is no path to one value, such as $.id or $.items[0].id", text)
	}
	return path, nil
}

func (p JSONPath) String() string { return p.text }

// Find returns the text or number at the path, or "".
func (p JSONPath) Find(document []byte) string {
	var at any
	decoder := json.NewDecoder(strings.NewReader(string(document)))
	decoder.UseNumber()
	if decoder.Decode(&at) != nil {
		return ""
	}
	for _, step := range p.steps {
		switch in := at.(type) {
		case map[string]any:
			at = in[strings.TrimPrefix(step, ".")]
		case []any:
			n, err := strconv.Atoi(strings.TrimPrefix(step, "#"))
			if err != nil || n >= len(in) {
				return ""
			}
			at = in[n]
		default:
			return ""
		}
	}
	switch value := at.(type) {
	case string:
		return value
	case json.Number:
		return value.String()
	default:
		return ""
	}
}
