package pages

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/proof/lab"
	"github.com/onceshop/onceshop/internal/shoptest"
)

var update = flag.Bool("update", false, "write the strategies into docs/strategies.md")

// The docs have the trade-offs and the lessons of the lab's pages.
func TestStrategiesInDocs(t *testing.T) {
	t.Parallel()
	shoptest.DocsSection(t, "../../../../docs/strategies.md", "strategies", strategiesMarkdown(), *update)
}

func strategiesMarkdown() string {
	var md strings.Builder
	fmt.Fprintln(&md, "| strategy | scope | forgets | authority | cost |\n| --- | --- | --- | --- | --- |")
	for _, s := range strategies {
		fmt.Fprintf(&md, "| **%s** | %s | %s | %s | %s |\n", s.Name, s.Scope, s.Forgets, s.Authority, s.Cost)
	}
	fmt.Fprintln(&md, "\n## The lessons")
	for _, s := range strategies {
		fmt.Fprintf(&md, "\n**%s.** %s\n\n", s.Name, s.Sentence)
		for _, e := range lab.Experiments() {
			if e.Strategy == s.ID {
				fmt.Fprintf(&md, "- [%s](lab/%s.md): %s\n", e.Fault, e.ID, e.Story)
			}
		}
	}
	return md.String()
}
