package api_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/api"
	"github.com/onceshop/onceshop/internal/problem"
)

var update = flag.Bool("update", false, "write the problems' examples into the OpenAPI document")

// outsideV1 are the codes that no answer under /v1 has.
var outsideV1 = []string{"misdirected_request"}

// TestProblemExamples compares the examples of problems in the document with the table.
func TestProblemExamples(t *testing.T) {
	t.Parallel()
	var want strings.Builder
	for _, kind := range problem.Kinds() {
		if slices.Contains(outsideV1, kind.Code) {
			continue
		}
		fmt.Fprintf(&want, "    %s:\n      summary: %s\n      value:\n", kind.Code, kind.Title)
		decoder := json.NewDecoder(bytes.NewReader(kind.Example().Body()))
		_, _ = decoder.Token()
		for decoder.More() {
			name, _ := decoder.Token()
			var value json.RawMessage
			if err := decoder.Decode(&value); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&want, "        %s: %s\n", name, value)
		}
	}
	before, rest, _ := bytes.Cut(api.OpenAPI, []byte("    # begin\n"))
	got, after, ok := bytes.Cut(rest, []byte("    # end\n"))
	if !ok {
		t.Fatal("the document has no place for the examples")
	}
	if string(got) == want.String() {
		return
	}
	if !*update {
		t.Fatal("the examples of problems differ from the table: run go test ./internal/api -args -update")
	}
	document := slices.Concat(before, []byte("    # begin\n"), []byte(want.String()), []byte("    # end\n"), after)
	if err := os.WriteFile("openapi.yaml", document, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestDocumentHasTheTable compares the codes and their safe_new_key in the document's schema, and
// the status of every answer, with the table.
func TestDocumentHasTheTable(t *testing.T) {
	t.Parallel()
	document, err := openapi3.NewLoader().LoadFromData(api.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	schema := document.Components.Schemas["Problem"].Value
	listed := schema.Properties["code"].Value.Enum
	unsafe := schema.AllOf[0].Value.If.Value.Properties["code"].Value.Enum
	for _, kind := range problem.Kinds() {
		if want := !slices.Contains(outsideV1, kind.Code); slices.Contains(listed, any(kind.Code)) != want {
			t.Errorf("%s: in the document's list: %t, want %t", kind.Code, !want, want)
		}
		if slices.Contains(unsafe, any(kind.Code)) == kind.SafeNewKey {
			t.Errorf("%s: the document and the table differ about safe_new_key", kind.Code)
		}
	}
	for _, code := range listed {
		if _, ok := problem.Find(code.(string)); !ok {
			t.Errorf("%s is not in the table", code)
		}
	}
	check := func(where string, responses map[string]*openapi3.ResponseRef) {
		for status, response := range responses {
			media := response.Value.Content.Get(problem.ContentType)
			if media == nil {
				continue
			}
			if len(media.Examples) == 0 {
				t.Errorf("%s %s: no example", where, status)
			}
			for name, example := range media.Examples {
				kind, ok := problem.Find(name)
				if !ok || fmt.Sprint(kind.Status) != status || example.Ref != "#/components/examples/"+name {
					t.Errorf("%s %s: example %s is not the table's", where, status, name)
				}
			}
		}
	}
	for path, item := range document.Paths.Map() {
		for method, operation := range item.Operations() {
			check(method+" "+path, operation.Responses.Map())
		}
	}
}

// TestDocumentHasTheRoutes compares the routes of the server with the document.
func TestDocumentHasTheRoutes(t *testing.T) {
	t.Parallel()
	document, err := openapi3.NewLoader().LoadFromData(api.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for path, item := range document.Paths.Map() {
		for method := range item.Operations() {
			documented[method+" "+path] = true
		}
	}
	e := echo.New()
	webhooks := map[string]api.EventReader{"/v1/webhooks/payments": nil, "/v1/webhooks/stripe": nil}
	(&api.API{Webhooks: webhooks}).Register(e)
	for _, route := range e.Routes() {
		if route.Method == http.MethodHead {
			continue
		}
		name := route.Method + " " + strings.ReplaceAll(route.Path, ":id", "{id}")
		if !documented[name] {
			t.Errorf("the document does not have %s", name)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("the server does not have %s", name)
	}
}
