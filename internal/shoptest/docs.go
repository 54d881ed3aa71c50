package shoptest

import (
	"os"
	"strings"
	"testing"
)

// DocsSection fails the test unless a document has the text between the comments <!-- name --> and
// <!-- /name -->, with an empty line on both sides. With update, it writes the text there.
func DocsSection(t *testing.T, file, name, text string, update bool) {
	t.Helper()
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->\n"
	document, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(document), begin)
	was, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for %s", file, name)
	}
	want := "\n" + text + "\n"
	if was == want {
		return
	}
	if !update {
		t.Fatalf("%s has other %s; run this test with -update. It should be:\n%s", file, name, want)
	}
	if err := os.WriteFile(file, []byte(before+begin+want+end+after), 0o600); err != nil {
		t.Fatal(err)
	}
}
