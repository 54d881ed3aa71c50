package docs_test

import (
	"go/format"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/api"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/problem"
	"github.com/onceshop/onceshop/web/docs"
)

// maxPage is what remains of 100 KB after the style sheets, the scripts and the font.
const maxPage = 11_000

func read(t *testing.T) docs.Document {
	t.Helper()
	document, err := docs.Read(api.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	return document
}

func get(t *testing.T, address string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode == http.StatusOK && !strings.HasPrefix(answer.Header.Get("Content-Type"), "text/html") {
		t.Errorf("%s is %s", address, answer.Header.Get("Content-Type"))
	}
	return answer.StatusCode, string(text)
}

var link = regexp.MustCompile(`href="(/(?:docs|problems)[^"#]*)`)

// TestPagesOpen follows the links from /docs. It must reach a page for every call and for every
// code that an answer can have.
func TestPagesOpen(t *testing.T) {
	t.Parallel()
	shop := apptest.Start(t, 1).Nodes[0]
	pages := map[string]string{}
	for todo := []string{"/docs"}; len(todo) > 0; todo = todo[1:] {
		path := todo[0]
		if pages[path] != "" {
			continue
		}
		status, body := get(t, shop+path)
		if status != http.StatusOK || len(body) > maxPage {
			t.Errorf("%s: status %d, %d bytes", path, status, len(body))
		}
		pages[path] = body
		for _, found := range link.FindAllStringSubmatch(body, -1) {
			todo = append(todo, found[1])
		}
	}
	for _, kind := range problem.Kinds() {
		page := pages[kind.Example().Type]
		for _, want := range []string{kind.Title, kind.Code, "What to do", "Is a new key safe?"} {
			if !strings.Contains(page, want) {
				t.Errorf("the page of %s does not have %q", kind.Code, want)
			}
		}
	}
	for _, group := range read(t).Groups {
		for _, call := range group.Calls {
			page := pages["/docs/"+call.ID]
			for _, want := range []string{call.Path, "curl -i", "http.DefaultClient.Do"} {
				if !strings.Contains(page, want) {
					t.Errorf("the page of %s does not have %q", call.ID, want)
				}
			}
		}
	}
	for _, path := range []string{"/problems/nothing", "/docs/nothing"} {
		if status, _ := get(t, shop+path); status != http.StatusNotFound {
			t.Errorf("%s: %d", path, status)
		}
	}
}

// TestKindsExplain checks that the table explains every code.
func TestKindsExplain(t *testing.T) {
	t.Parallel()
	for _, kind := range problem.Kinds() {
		if kind.Meaning == "" || kind.Remedy == "" || kind.Detail == "" || kind.Title == "" {
			t.Errorf("%s has no explanation", kind.Code)
		}
		if strings.HasPrefix(kind.Safety, "Yes") != kind.SafeNewKey {
			t.Errorf("%s: %q, but safe_new_key is %t", kind.Code, kind.Safety, kind.SafeNewKey)
		}
	}
}

// TestEverythingIsDescribed fails for a call, a parameter or an answer without a description.
func TestEverythingIsDescribed(t *testing.T) {
	t.Parallel()
	for _, group := range read(t).Groups {
		if group.Description == "" {
			t.Errorf("group %s has no description", group.Name)
		}
		for _, call := range group.Calls {
			if call.Summary == "" || call.Description == "" {
				t.Errorf("%s %s has no description", call.Method, call.Path)
			}
			for _, parameter := range call.Parameters {
				if parameter.Description == "" || parameter.Example == "" {
					t.Errorf("%s: parameter %s has no description or example", call.ID, parameter.Name)
				}
			}
			for _, response := range call.Responses {
				if response.Description == "" {
					t.Errorf("%s: %s has no description", call.ID, response.Status)
				}
			}
			code := call.Request("$TOKEN").Go("http://127.0.0.1:8080")
			body := strings.ReplaceAll(strings.TrimSpace(code), "\n", "\n\t")
			source := "package p\n\nfunc send() error {\n\t" + body + "\n}\n"
			if formatted, err := format.Source([]byte(source)); err != nil || string(formatted) != source {
				t.Errorf("%s: the Go example is not formatted: %v\n%s", call.ID, err, source)
			}
		}
	}
}
