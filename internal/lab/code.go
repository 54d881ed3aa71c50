package lab

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"

	"github.com/onceshop/onceshop"
)

// Source is a function as the program was built from it.
type Source struct {
	// Place is the file and the line where the text begins, as "internal/orders/place.go:42".
	Place string
	// Text is the function with its doc comment; tabs indent it.
	Text string
}

// Code returns the function that ref names, as "internal/orders/place.go:Service.placeTx".
func Code(ref string) (Source, error) {
	file, function, _ := strings.Cut(ref, ":")
	text, err := onceshop.Source.ReadFile(file)
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

// nameOf is the function's name, after its receiver's type and a dot if it is a method.
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
