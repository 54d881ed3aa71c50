package mailbox

import (
	"regexp"
	"strings"
)

// term is one word of a search query; quotes hold spaces together, and may stand anywhere.
var term = regexp.MustCompile(`(?:[^\s"]|"[^"]*"?)+`)

// search reads a query as Mailpit does: to:, subject: and message-id: look into that field,
// a plain word into everything; all of it by substring, without regard to case. A message
// must match every term.
func search(query string) func(*entry) bool {
	var tests []func(*entry) bool
	for _, word := range term.FindAllString(strings.ToLower(query), -1) {
		word = strings.ReplaceAll(word, `"`, "")
		field, value, _ := strings.Cut(word, ":")
		switch field {
		case "to":
			tests = append(tests, func(e *entry) bool { return contains(addresses(e.To), value) })
		case "subject":
			tests = append(tests, func(e *entry) bool { return contains(e.Subject, value) })
		case "message-id":
			value = strings.Trim(value, "<>")
			tests = append(tests, func(e *entry) bool { return contains(e.MessageID, value) })
		default:
			tests = append(tests, func(e *entry) bool { return strings.Contains(e.words, word) })
		}
	}
	return func(e *entry) bool {
		for _, test := range tests {
			if !test(e) {
				return false
			}
		}
		return true
	}
}

// contains finds a lower-case part in a text of any case.
func contains(text, part string) bool {
	return strings.Contains(strings.ToLower(text), part)
}
