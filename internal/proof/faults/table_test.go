package faults

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/crash"
	"github.com/onceshop/onceshop/internal/proof/kill"
)

const table = "../../../docs/failure-table.md"

// faults are the numbers of the faults that the table must have.
func faults() []int {
	var all []int
	for n := 1; n <= 50; n++ {
		all = append(all, n)
	}
	return all
}

var named = regexp.MustCompile("`([a-z]+)\\.(Test[A-Za-z0-9]+)(?:/([^`]+))?`")

// The document names every crash point and every fault, each with tests that exist.
func TestTable(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	rows, points := map[int]bool{}, map[crash.Point]bool{}
	for line := range strings.Lines(string(document)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 6 || strings.HasPrefix(cells[0], " #") || strings.HasPrefix(cells[0], " ---") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
			if cells[i] == "" {
				t.Errorf("an empty cell in %s", line)
			}
		}
		if n, err := strconv.Atoi(cells[0]); err == nil {
			rows[n] = true
		}
		tests := named.FindAllStringSubmatch(cells[5], -1)
		if len(tests) == 0 {
			t.Errorf("no test in %s", line)
		}
		for _, test := range tests {
			if why := missing(t, test[1], test[2], test[3]); why != "" {
				t.Errorf("%s: %s", test[0], why)
			}
		}
		if point := crash.Point(strings.Trim(cells[1], "`")); strings.HasPrefix(cells[1], "`") {
			points[point] = true
			if want := "`faults.TestCrash/" + string(point) + "`"; !slices.Contains(kill.Points(), point) ||
				cells[5] != want {
				t.Errorf("%s is no crash point, or is not proved by %s", point, want)
			}
		}
	}
	for _, n := range faults() {
		if !rows[n] {
			t.Errorf("fault %d is missing", n)
		}
	}
	for _, point := range kill.Points() {
		if !points[point] {
			t.Errorf("crash point %s is missing", point)
		}
	}
}

// missing returns what is missing of a test of internal/folder, internal/proof/folder or of a
// broker's adapter, or "".
func missing(t *testing.T, folder, test, subtest string) string {
	t.Helper()
	var files []string
	for _, parent := range []string{"..", "../..", "../../outbox/broker"} {
		found, err := filepath.Glob(filepath.Join(parent, folder, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, declared := range file.Decls {
			if f, ok := declared.(*ast.FuncDecl); ok && f.Name.Name == test {
				if subtest == "" || test == "TestCrash" && slices.Contains(kill.Points(), crash.Point(subtest)) ||
					says(f, subtest) {
					return ""
				}
				return "it has no such subtest"
			}
		}
	}
	return "there is no such test"
}

// says reports whether the function has the text as a string, which is how subtests are named.
func says(f *ast.FuncDecl, text string) (found bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			if value, err := strconv.Unquote(literal.Value); err == nil && value == text {
				found = true
			}
		}
		return !found
	})
	return found
}
