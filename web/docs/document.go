package docs

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/onceshop/onceshop/internal/problem"
)

// Document is what the pages show of an OpenAPI document, in its order.
type Document struct {
	Title, Summary, Description string
	Groups                      []Group
	Objects                     []Object
	root                        node
}

// Group has the calls of one tag.
type Group struct {
	Name, Description string
	Calls             []Call
}

// Call is one operation.
type Call struct {
	ID, Method, Path     string
	Summary, Description string
	// Token is who may call: "customer", "admin", or "" for everyone.
	Token      string
	Parameters []Field
	Body       []Field
	Requests   []Example
	Responses  []Response
}

// Field is a parameter, or a member of a JSON object.
type Field struct {
	Name, In, Type, Description string
	// Object is the name of the object that the type names, or "".
	Object   string
	Required bool
	Example  string
}

// Example is the example of a body, as indented JSON.
type Example struct{ Name, JSON string }

// Response is one of the answers of a call. An error has Problems and no Examples.
type Response struct {
	Status, Description string
	Headers             []Field
	Examples            []Example
	Problems            []problem.Kind
}

// Object is a JSON object that several calls share.
type Object struct {
	Name   string
	Fields []Field
}

// Keyed reports whether the call needs an idempotency key.
func (c Call) Keyed() bool {
	return slices.ContainsFunc(c.Parameters, func(f Field) bool { return f.Name == keyHeader })
}

const keyHeader = "Idempotency-Key"

// Read reads an OpenAPI document in YAML.
func Read(text []byte) (Document, error) {
	var tree yaml.Node
	if err := yaml.Unmarshal(text, &tree); err != nil || len(tree.Content) == 0 {
		return Document{}, fmt.Errorf("read the OpenAPI document: %w", cmp.Or(err, errEmpty))
	}
	root := node{tree.Content[0], tree.Content[0]}
	info := root.get("info")
	d := Document{Title: info.text("title"), Summary: info.text("summary"), Description: info.text("description"),
		root: root}
	for _, tag := range root.get("tags").Content() {
		d.Groups = append(d.Groups, Group{Name: tag.text("name"), Description: tag.text("description")})
	}
	for path, item := range root.get("paths").members() {
		for method, operation := range item.members() {
			if method == "parameters" {
				continue
			}
			call := readCall(strings.ToUpper(method), path, item, operation)
			tag := operation.get("tags").Content()[0].Value()
			i := slices.IndexFunc(d.Groups, func(g Group) bool { return g.Name == tag })
			if i < 0 {
				return Document{}, fmt.Errorf("%s %s: the tag %q is not described", method, path, tag)
			}
			d.Groups[i].Calls = append(d.Groups[i].Calls, call)
		}
	}
	for name, schema := range root.get("components", "schemas").members() {
		if schema.text("type") == "object" && name != "Problem" {
			d.Objects = append(d.Objects, Object{Name: name, Fields: fields(schema)})
		}
	}
	return d, nil
}

// Call returns the call with this operationId.
func (d Document) Call(id string) (call Call, ok bool) {
	for _, group := range d.Groups {
		for _, call := range group.Calls {
			if call.ID == id {
				return call, true
			}
		}
	}
	return Call{}, false
}

func readCall(method, path string, item, operation node) Call {
	call := Call{ID: operation.text("operationId"), Method: method, Path: path, Summary: operation.text("summary"),
		Description: operation.text("description"), Token: "customer"}
	if operation.has("security") {
		call.Token = ""
	}
	for _, parameter := range append(item.get("parameters").Content(), operation.get("parameters").Content()...) {
		field := fieldOf(parameter.text("name"), parameter.get("schema"), parameter.text("required") == "true")
		field.In, field.Example = parameter.text("in"), parameter.text("example")
		field.Description = parameter.text("description")
		call.Parameters = append(call.Parameters, field)
	}
	body := operation.get("requestBody", "content", "application/json")
	call.Body, call.Requests = fields(body.get("schema")), examples(body)
	for status, response := range operation.get("responses").members() {
		if status == "403" {
			call.Token = "admin"
		}
		call.Responses = append(call.Responses, readResponse(status, response))
	}
	slices.SortFunc(call.Responses, func(a, b Response) int { return cmp.Compare(a.Status, b.Status) })
	return call
}

func readResponse(status string, response node) Response {
	r := Response{Status: status, Description: response.text("description")}
	for name, header := range response.get("headers").members() {
		field := fieldOf(name, header.get("schema"), header.text("required") == "true")
		field.Description = header.text("description")
		r.Headers = append(r.Headers, field)
	}
	for mediaType, media := range response.get("content").members() {
		shown := examples(media)
		if mediaType != problem.ContentType {
			r.Examples = append(r.Examples, shown...)
			continue
		}
		for _, example := range shown {
			if kind, ok := problem.Find(example.Name); ok {
				r.Problems = append(r.Problems, kind)
			}
		}
	}
	return r
}

func examples(media node) []Example {
	var all []Example
	if media.has("example") {
		all = append(all, Example{JSON: indented(media.get("example"))})
	}
	for name, example := range media.get("examples").members() {
		all = append(all, Example{Name: name, JSON: indented(example.get("value"))})
	}
	return all
}

func indented(n node) string { return indentedJSON(n.json()) }

func indentedJSON(text []byte) string {
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		panic("docs: " + err.Error()) // the callers write valid JSON
	}
	return out.String()
}
