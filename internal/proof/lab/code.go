package lab

import (
	"embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"

	"github.com/onceshop/onceshop"
)

// naiveSource has the naive twins, which are the lab's own.
//
//go:embed *_naive.go
var naiveSource embed.FS

// Source is a function that this program was built from.
type Source struct {
	// Place is the file and the line of the text's beginning, as "internal/orders/place.go:42".
	Place string
	// Text is the function with its doc comment; tabs indent it.
	Text string
}

const folder = "internal/proof/lab/"

// Code returns the function that ref names, as "internal/orders/place.go:Service.placeTx".
func Code(ref string) (Source, error) {
	file, function, _ := strings.Cut(ref, ":")
	text, err := onceshop.Source.ReadFile(file)
	if own, ok := strings.CutPrefix(file, folder); ok {
		text, err = naiveSource.ReadFile(own)
	}
	if err != nil {
		return Source{}, fmt.Errorf("show %s: %w", ref, err)
	}
	positions := token.NewFileSet()
	parsed, err := parser.ParseFile(positions, file, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return Source{}, fmt.Errorf("show %s: %w", ref, err)
	}
	for _, declared := range parsed.Decls {
		f, ok := declared.(*ast.FuncDecl)
		if !ok || nameOf(f) != function {
			continue
		}
		begin := f.Pos()
		if f.Doc != nil {
			begin = f.Doc.Pos()
		}
		from, to := positions.Position(begin), positions.Position(f.End())
		return Source{Place: fmt.Sprintf("%s:%d", file, from.Line), Text: string(text[from.Offset:to.Offset])}, nil
	}
	return Source{}, fmt.Errorf("show %s: %s has no such function", ref, file)
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
