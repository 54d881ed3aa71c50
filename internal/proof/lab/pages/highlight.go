package pages

import (
	"go/scanner"
	"go/token"
	"html/template"
	"regexp"
	"strings"

	"github.com/onceshop/onceshop/internal/proof/lab"
)

// The elements that color source. They are short, because a page has hundreds.
const (
	plain   = ""
	keyword = "b"
	comment = "i"
	literal = "u"
	decides = "mark" // what stops a twin
)

// highlighted returns source as HTML.
func highlighted(source lab.Source) template.HTML {
	var html strings.Builder
	write := func(element, text string) {
		if element != plain && text != "" {
			html.WriteString("<" + element + ">")
			defer html.WriteString("</" + element + ">")
		}
		template.HTMLEscape(&html, []byte(text))
	}
	if source.SQL {
		highlightSQL(source.Text, write)
	} else {
		highlightGo(source.Text, write)
	}
	return template.HTML(html.String()) //nolint:gosec // every text is escaped
}

func highlightGo(source string, write func(element, text string)) {
	var s scanner.Scanner
	file := token.NewFileSet().AddFile("", -1, len(source))
	s.Init(file, []byte(source), func(token.Position, string) {}, scanner.ScanComments)
	end := 0
	for {
		at, what, text := s.Scan()
		var element string
		switch {
		case what == token.EOF:
			write(plain, source[end:])
			return
		case what == token.COMMENT:
			element = comment
		case what == token.STRING, what == token.CHAR:
			element = literal
		case what.IsKeyword():
			element = keyword
		default:
			continue
		}
		begin := file.Offset(at)
		write(plain, source[end:begin])
		write(element, text)
		end = begin + len(text)
	}
}

// sqlParts are, in this order: a comment, a literal, what stops a twin, and a keyword. The keywords
// of this repository are in upper case.
var sqlParts = regexp.MustCompile(`(--[^\n]*)|('(?:[^']|'')*')|` +
	`(ON CONFLICT[^;\n]*?DO (?:NOTHING|UPDATE)|UNIQUE(?: INDEX| \([^)]*\))|PRIMARY KEY \([^)]*\))|\b([A-Z]{2,})\b`)

func highlightSQL(source string, write func(element, text string)) {
	end := 0
	for _, at := range sqlParts.FindAllStringSubmatchIndex(source, -1) {
		write(plain, source[end:at[0]])
		for i, element := range []string{comment, literal, decides, keyword} {
			if begin, end := at[2*i+2], at[2*i+3]; begin >= 0 {
				write(element, source[begin:end])
			}
		}
		end = at[1]
	}
	write(plain, source[end:])
}

// inlineMarkdown has code and emphasis.
var inlineMarkdown = regexp.MustCompile("`([^`]+)`|\\*([^*]+)\\*")

// inline returns a paragraph of a lesson as HTML.
func inline(paragraph string) template.HTML {
	escaped := template.HTMLEscapeString(paragraph)
	html := inlineMarkdown.ReplaceAllStringFunc(escaped, func(part string) string {
		element := "em"
		if part[0] == '`' {
			element = "code"
		}
		return "<" + element + ">" + part[1:len(part)-1] + "</" + element + ">"
	})
	return template.HTML(html) //nolint:gosec // escaped above
}
