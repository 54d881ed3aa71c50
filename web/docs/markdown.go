package docs

import (
	"html/template"
	"regexp"
	"strings"

	"github.com/onceshop/onceshop/internal/problem"
)

var (
	codeSpan = regexp.MustCompile("`([^`]+)`")
	strong   = regexp.MustCompile(`\*\*([^*]+)\*\*`)
	anchor   = regexp.MustCompile(`\[([^\]]+)\]\((https?://[^)\s]+|/[^)\s]*)\)`)
)

// markdown renders the part of Markdown that the document uses: paragraphs, lists, code, strong
// text and links. The code of a problem links to its page.
func markdown(text string) template.HTML {
	var out strings.Builder
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		if block = strings.TrimSpace(block); block == "" {
			continue
		}
		if items, isList := strings.CutPrefix(block, "- "); isList {
			out.WriteString("<ul>")
			for item := range strings.SplitSeq(items, "\n- ") {
				out.WriteString("<li>" + inline(item) + "</li>")
			}
			out.WriteString("</ul>\n")
			continue
		}
		out.WriteString("<p>" + inline(block) + "</p>\n")
	}
	return template.HTML(out.String()) //nolint:gosec // inline escapes the text
}

// phrase renders one line of Markdown.
func phrase(text string) template.HTML {
	return template.HTML(inline(text)) //nolint:gosec // inline escapes the text
}

func inline(text string) string {
	text = template.HTMLEscapeString(strings.Join(strings.Fields(text), " "))
	text = codeSpan.ReplaceAllStringFunc(text, func(span string) string {
		code := strings.Trim(span, "`")
		if kind, ok := problem.Find(code); ok {
			return `<a href="` + kind.Path() + `"><code>` + code + `</code></a>`
		}
		return "<code>" + code + "</code>"
	})
	text = strong.ReplaceAllString(text, "<strong>$1</strong>")
	return anchor.ReplaceAllString(text, `<a href="$2">$1</a>`)
}
