package docs

import (
	"bytes"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

var errEmpty = errors.New("it is empty")

// node is a node of the document. A method that finds nothing returns the zero node, which has no
// members.
type node struct{ at, root *yaml.Node }

// members yields the members of an object in the document's order. It follows references.
func (n node) members() iter.Seq2[string, node] {
	return func(yield func(string, node) bool) {
		if n.at == nil || n.at.Kind != yaml.MappingNode {
			return
		}
		for i := 0; i < len(n.at.Content); i += 2 {
			if !yield(n.at.Content[i].Value, node{n.at.Content[i+1], n.root}.resolve()) {
				return
			}
		}
	}
}

// get returns the member at the path.
func (n node) get(path ...string) node {
	for _, name := range path {
		n = n.member(name).resolve()
	}
	return n
}

// member returns a member and does not follow its reference.
func (n node) member(name string) node {
	if n.at != nil && n.at.Kind == yaml.MappingNode {
		for i := 0; i < len(n.at.Content); i += 2 {
			if n.at.Content[i].Value == name {
				return node{n.at.Content[i+1], n.root}
			}
		}
	}
	return node{nil, n.root}
}

func (n node) resolve() node {
	if ref := n.member("$ref").Value(); ref != "" {
		return node{n.root, n.root}.get(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	}
	return n
}

func (n node) has(name string) bool { return n.member(name).at != nil }

func (n node) text(name string) string { return strings.TrimSpace(n.get(name).Value()) }

// Value returns the text of a scalar.
func (n node) Value() string {
	if n.at == nil {
		return ""
	}
	return n.at.Value
}

// Content returns the elements of an array.
func (n node) Content() []node {
	if n.at == nil || n.at.Kind != yaml.SequenceNode {
		return nil
	}
	all := make([]node, len(n.at.Content))
	for i, element := range n.at.Content {
		all[i] = node{element, n.root}.resolve()
	}
	return all
}

// json returns the node as JSON, with the members of objects in the document's order.
func (n node) json() []byte {
	var parts [][]byte
	switch n.at.Kind {
	case yaml.MappingNode:
		for name, member := range n.members() {
			parts = append(parts, slices.Concat(quoted(name), []byte(":"), member.json()))
		}
		return slices.Concat([]byte("{"), bytes.Join(parts, []byte(",")), []byte("}"))
	case yaml.SequenceNode:
		for _, element := range n.Content() {
			parts = append(parts, element.json())
		}
		return slices.Concat([]byte("["), bytes.Join(parts, []byte(",")), []byte("]"))
	default:
	}
	if n.at.ShortTag() == "!!str" {
		return quoted(n.at.Value)
	}
	return []byte(n.at.Value)
}

func quoted(text string) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // text always encodes
	return bytes.TrimSpace(out.Bytes())
}

// fields returns the members of an object's schema.
func fields(schema node) []Field {
	required := map[string]bool{}
	for _, name := range schema.get("required").Content() {
		required[name.Value()] = true
	}
	var all []Field
	for name, member := range schema.get("properties").members() {
		field := fieldOf(name, member, required[name])
		if named := typeName(schema.get("properties").member(name)); named != "" {
			field.Type, field.Object = named, named
		}
		all = append(all, field)
	}
	return all
}

func fieldOf(name string, schema node, required bool) Field {
	field := Field{Name: name, Required: required, Type: schema.text("type"), Description: schema.text("description")}
	for _, combined := range []string{"allOf", "anyOf"} {
		if parts := schema.get(combined).Content(); field.Type == "" && len(parts) > 0 {
			first := fieldOf(name, parts[0], required)
			field.Type = first.Type
			if field.Description == "" {
				field.Description = first.Description
			}
		}
	}
	if field.Type == "array" {
		field.Type = "array of objects"
		if named := typeName(schema.member("items")); named != "" {
			field.Type, field.Object = "array of "+named, named
		}
	}
	if constant := schema.text("const"); constant != "" {
		field.Type = constant
	}
	var values []string
	for _, value := range schema.get("enum").Content() {
		values = append(values, value.Value())
	}
	if values != nil {
		field.Type = strings.Join(values, " | ")
	}
	return field
}

// typeName returns the name of the object that a reference names, or "".
func typeName(schema node) string {
	ref := schema.member("$ref").Value()
	if ref == "" || schema.resolve().text("type") != "object" {
		return ""
	}
	return ref[strings.LastIndex(ref, "/")+1:]
}
