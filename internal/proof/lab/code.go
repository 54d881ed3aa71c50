package lab

import (
	"embed"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"strings"

	"github.com/onceshop/onceshop"
)

// naiveSource has the naive twins, which are the lab's own, and their tables.
//
//go:embed *_naive.go naive_*.sql
var naiveSource embed.FS

// Source is a piece of a file that this program was built from.
type Source struct {
	// Place is the file and the line of the text's beginning, as "internal/orders/place.go:42".
	Place string
	// Text is the piece with its comment. A line with "…" stands for lines that are left out.
	Text string
	// SQL reports that it is SQL, and not Go.
	SQL bool
}

// omitted is the line that stands for others.
const omitted = "    …"

const folder = "internal/proof/lab/"

// SourceOf returns what ref names. It is one of:
//
//	internal/orders/place.go:Service.placeTx    a function, a method or a type
//	…/place.go:Service.placeTx~INSERT           the lines of its call that contains the text
//	db/queries/orders/place.sql:InsertOrders    a query
//	db/migrations/00002_orders.sql:orders       a table
//	…/00002_orders.sql:orders~PRIMARY KEY       the lines of the table that are about a constraint
//	…/00002_orders.sql:orders_one_per_key       the same, by the name of a constraint or an index
func SourceOf(ref string) (Source, error) {
	file, name, _ := strings.Cut(ref, ":")
	name, within, _ := strings.Cut(name, "~")
	content, err := onceshop.Source.ReadFile(file)
	if own, ok := strings.CutPrefix(file, folder); ok {
		content, err = naiveSource.ReadFile(own)
	}
	if err != nil {
		return Source{}, fmt.Errorf("show %s: %w", ref, err)
	}
	find, isSQL := findGo, path.Ext(file) == ".sql"
	if isSQL {
		find = findSQL
	}
	text, line, err := find(string(content), name, within)
	if err != nil {
		return Source{}, fmt.Errorf("show %s: %w", ref, err)
	}
	return Source{Place: fmt.Sprintf("%s:%d", file, line), Text: text, SQL: isSQL}, nil
}

var errNotInFile = errors.New("the file has no such thing")

// findGo returns a function or a type with its comment, or the lines within it around a text, and
// the number of the first line.
func findGo(content, name, within string) (text string, line int, err error) {
	positions := token.NewFileSet()
	file, err := parser.ParseFile(positions, "", content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return "", 0, err
	}
	for _, declared := range file.Decls {
		begin, ok := beginOf(declared, name)
		if !ok {
			continue
		}
		from, to := positions.Position(begin), positions.Position(declared.End())
		text = content[from.Offset:to.Offset]
		if within == "" {
			return text, from.Line, nil
		}
		part, skipped, err := callWith(text, within)
		return part, from.Line + skipped, err
	}
	return "", 0, errNotInFile
}

// beginOf returns where the declaration of the name begins, with its comment.
func beginOf(declared ast.Decl, name string) (begin token.Pos, ok bool) {
	var doc *ast.CommentGroup
	switch d := declared.(type) {
	case *ast.FuncDecl:
		doc, ok = d.Doc, nameOf(d) == name
	case *ast.GenDecl:
		doc = d.Doc
		if spec, isType := d.Specs[0].(*ast.TypeSpec); isType {
			ok = spec.Name.Name == name
		}
	}
	if doc != nil {
		return doc.Pos(), ok
	}
	return declared.Pos(), ok
}

// nameOf returns the name of a function, or of a method as Type.Method.
func nameOf(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	receiver := f.Recv.List[0].Type
	if pointer, ok := receiver.(*ast.StarExpr); ok {
		receiver = pointer.X
	}
	if generic, ok := receiver.(*ast.IndexExpr); ok {
		receiver = generic.X
	}
	if name, ok := receiver.(*ast.Ident); ok {
		return name.Name + "." + f.Name.Name
	}
	return ""
}

// callWith returns the first lines of code that contain the text and close what they open, without
// their indentation, and how many lines come before.
func callWith(code, text string) (part string, skipped int, err error) {
	lines := strings.Split(code, "\n")
	for i, line := range lines {
		if !strings.Contains(line, text) || strings.HasPrefix(strings.TrimSpace(line), "//") {
			continue
		}
		end := i + 1
		for end < len(lines) && open(strings.Join(lines[i:end], "\n")) {
			end++
		}
		indent := line[:len(line)-len(strings.TrimLeft(line, "\t"))]
		for j := i; j < end; j++ {
			lines[j] = strings.TrimPrefix(lines[j], indent)
		}
		return strings.Join(lines[i:end], "\n"), i, nil
	}
	return "", 0, errNotInFile
}

// open reports whether a parenthesis is still open.
func open(code string) bool { return strings.Count(code, "(") > strings.Count(code, ")") }
