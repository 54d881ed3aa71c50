package onceshop_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// No statement of the shop has a form that Citus refuses on a schema that is a shard of its own. It
// wants to compute what is not immutable once, before it sends the statement to the shard.
func TestStatementsAreFitForCitus(t *testing.T) {
	t.Parallel()
	seen := 0
	for name, statements := range shopStatements(t) {
		for _, statement := range statements {
			seen++
			for _, why := range refusedByCitus(statement) {
				t.Errorf("%s: %s in\n%s", name, why, statement)
			}
		}
	}
	if seen < 150 {
		t.Errorf("only %d statements seen", seen)
	}
}

// An UPDATE of the rows of a list asks for their ids, and not for what makes a partial index small:
// with statistics from a quiet hour, the planner walks that whole index for each id.
func TestListsAreUpdatedByTheirIDs(t *testing.T) {
	t.Parallel()
	seen := 0
	for name, statements := range shopStatements(t) {
		for _, statement := range statements {
			list, _ := parseSQL(sqlToken.FindAllString(statement, -1))
			for _, condition := range conditionsOfLists(list) {
				seen++
				for i := range len(condition) - 1 {
					switch pair := condition[i].word + " " + condition[i+1].word; pair {
					case "is null", "status in", "state in":
						t.Errorf("%s: %q in the condition of\n%s", name, pair, statement)
					}
				}
			}
		}
	}
	if seen < 7 {
		t.Errorf("only %d statements seen", seen)
	}
}

// conditionsOfLists returns the condition of each UPDATE … FROM in a statement.
func conditionsOfLists(list []expr) (found [][]expr) {
	forEach(list, func(list []expr, i int) {
		if isStatement(list[i]) {
			found = append(found, conditionsOfLists(list[i].group)...)
		}
	})
	verb := verbOf(list)
	if verb < 0 || list[verb].word != "update" {
		return found
	}
	is := func(word string) func(expr) bool { return func(e expr) bool { return e.word == word } }
	body := list[verb:]
	from := slices.IndexFunc(body, is("from"))
	where := slices.IndexFunc(body, is("where"))
	if from < 0 || where < from {
		return found
	}
	return append(found, body[where:])
}

// Each refused form is found, and none of its allowed neighbors.
func TestRefusedByCitus(t *testing.T) {
	t.Parallel()
	for statement, want := range map[string]string{
		"UPDATE t SET a = coalesce(a, now())":                                                  inCase,
		"UPDATE t SET a = CASE WHEN b THEN now() END":                                          inCase,
		"DELETE FROM t WHERE CASE WHEN b THEN a < now() ELSE true END":                         inCase,
		"WITH c AS (UPDATE t SET a = coalesce(a, (now()))) SELECT 1":                           inCase,
		"INSERT INTO t VALUES (CASE WHEN $1 THEN now() END)":                                   inCase,
		"UPDATE t SET a = now() + least(b, interval '1 s')":                                    withColumn,
		"UPDATE t SET a = now() - b WHERE id = $1":                                             withColumn,
		"UPDATE t SET a = clock_timestamp()":                                                   volatile,
		"UPDATE t SET id = gen_random_uuid()":                                                  volatile,
		"INSERT INTO t VALUES ($1, (SELECT id FROM u))":                                        subquery,
		"INSERT INTO t SELECT $1, coalesce($2, (SELECT id FROM u))":                            subquery,
		"INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = now()":                     onConflict,
		"INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 1 WHERE t.c < now()":       onConflict,
		"UPDATE t SET a = 1 RETURNING now() - a":                                               returning,
		"INSERT INTO t SELECT o.id FROM orders o WHERE o.total = $1":                           reading,
		"INSERT INTO t SELECT c.a FROM (SELECT $1 AS a) AS c JOIN orders ON orders.id = c.a":   reading,
		"INSERT INTO t SELECT c.a, (SELECT b FROM orders) FROM (SELECT $1 AS a) AS c":          reading,
		"WITH c AS (SELECT a FROM orders) INSERT INTO t SELECT c.a FROM c":                     reading,
		"WITH c AS (INSERT INTO t SELECT o.id FROM orders o RETURNING *) SELECT * FROM c":      reading,
		"UPDATE t SET a = CASE b WHEN 1 THEN 2 END":                                            operand,
		"WITH n AS (INSERT INTO t VALUES (1)) SELECT CASE b WHEN 1 THEN 2 END FROM u":          operand,
		"WITH c AS (SELECT unnest($1) AS a) INSERT INTO t SELECT c.a FROM c":                   "",
		"INSERT INTO t SELECT o.id, clock_timestamp() FROM orders o":                           "",
		"INSERT INTO stock_movements SELECT o.id FROM orders o":                                "",
		"SELECT CASE b WHEN 1 THEN 2 END FROM t":                                               "",
		"UPDATE t SET a = now() + sqlc.arg(x)::interval, b = now() WHERE c < now()":            "",
		"UPDATE t SET a = now() + $1, b = now() + CASE WHEN $2 THEN interval '0' END":          "",
		"UPDATE t SET a = now() + nullif($1, interval '0') RETURNING a":                        "",
		"UPDATE t SET a = s.at FROM (SELECT now() + t.b AS at) AS s":                           "",
		"WITH s AS (SELECT coalesce(a, now()) AS a FROM u) UPDATE t SET a = s.a FROM s":        "",
		"SELECT coalesce(a, now()), CASE WHEN b THEN now() END FROM t":                         "",
		"INSERT INTO t SELECT a, now() FROM (SELECT unnest($1) AS a) AS s":                     "",
		"INSERT INTO t VALUES (now()) ON CONFLICT (a) DO UPDATE SET b = excluded.b":            "",
		"UPDATE t SET a = 'coalesce(now())' -- coalesce(now())\nWHERE id IN (SELECT 1 FROM u)": "",
	} {
		got := refusedByCitus(statement)
		if want == "" && got != nil || want != "" && !slices.Equal(got, []string{want}) {
			t.Errorf("%s: found %q, want %q", statement, got, want)
		}
	}
}

// The forms that Citus refuses.
const (
	inCase     = "now() inside CASE or COALESCE of a write"
	withColumn = "now() and a column in one sum of a write"
	volatile   = "a volatile function in a write"
	subquery   = "a subquery in INSERT … VALUES, or in its SELECT without FROM"
	onConflict = "now() in ON CONFLICT DO UPDATE"
	returning  = "now() in RETURNING"
	reading    = "an INSERT … SELECT that reads a table and has no volatile value"
	operand    = "CASE with an operand beside a write"
)

// expr is a word of SQL, or a group: what stands in parentheses, or from CASE to END.
type expr struct {
	word  string
	group []expr
}

var sqlToken = regexp.MustCompile(`--[^\n]*|'(?:[^']|'')*'|"[^"]*"|[\w$]+|::|\S`)

var sqlComment = regexp.MustCompile(`--[^\n]*`)

// parseSQL reads words and groups up to the end of a group.
func parseSQL(tokens []string) (list []expr, rest []string) {
	for len(tokens) > 0 {
		word := strings.ToLower(tokens[0])
		tokens = tokens[1:]
		switch {
		case word == ")" || word == "end":
			return list, tokens
		case word == "(" || word == "case":
			var group []expr
			group, tokens = parseSQL(tokens)
			list = append(list, expr{word, group})
		case strings.HasPrefix(word, "--"):
		default:
			list = append(list, expr{word: word})
		}
	}
	return list, nil
}

// refusedByCitus returns the refused forms in a statement.
func refusedByCitus(statement string) (found []string) {
	list, _ := parseSQL(sqlToken.FindAllString(statement, -1))
	checkStatement(list, &found)
	if hasOperand(list) && slices.ContainsFunc([]string{"insert", "update", "delete"}, func(word string) bool {
		return holds(list, word)
	}) {
		found = append(found, operand)
	}
	return slices.Compact(found)
}

// readsTable reports whether the name of one of the shop's tables follows FROM or JOIN.
func readsTable(list []expr) bool {
	for i, e := range list {
		isTable := i > 0 && (list[i-1].word == "from" || list[i-1].word == "join") && tables()[e.word] != ""
		if isTable || readsTable(e.group) {
			return true
		}
	}
	return false
}

// tables returns what creates each of the shop's tables.
var tables = sync.OnceValue(func() map[string]string {
	created := map[string]string{}
	paths, _ := filepath.Glob("db/migrations/*.sql")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			panic(err)
		}
		for _, found := range createTable.FindAllStringSubmatch(string(text), -1) {
			created[found[1]] = found[2]
		}
	}
	return created
})

var createTable = regexp.MustCompile(`(?ms)^CREATE TABLE (\w+) \((.*?)^\)`)

// isVolatile reports whether an INSERT gives a row a value that is another one each time.
func isVolatile(list []expr, target string) bool {
	return holds(list, "clock_timestamp") || strings.Contains(tables()[target], "AS IDENTITY")
}

func hasOperand(list []expr) bool {
	return slices.ContainsFunc(list, func(e expr) bool {
		return e.word == "case" && e.group[0].word != "when" || hasOperand(e.group)
	})
}

// isStatement reports whether a group is a statement of its own.
func isStatement(e expr) bool {
	return len(e.group) > 0 && slices.Contains([]string{"select", "with", "insert", "update", "delete", "values"},
		e.group[0].word) && e.word == "("
}

// verbOf is where a statement says what it does, or -1.
func verbOf(list []expr) int {
	return slices.IndexFunc(list, func(e expr) bool {
		return slices.Contains([]string{"select", "insert", "update", "delete"}, e.word)
	})
}

func checkStatement(list []expr, found *[]string) {
	verb := verbOf(list)
	forEach(list, func(list []expr, i int) {
		if isStatement(list[i]) && (i == 0 || verb < 0 || list[verb].word != "insert" || list[i-1].word != "values") {
			checkStatement(list[i].group, found)
		}
	})
	if verb < 0 || list[verb].word == "select" {
		return
	}
	body := list[verb:]
	word := func(word string) int { return slices.IndexFunc(body, func(e expr) bool { return e.word == word }) }
	last := len(body)
	if at := word("returning"); at > 0 {
		last = at
		if holds(body[at:], "now") {
			*found = append(*found, returning)
		}
	}
	if at := word("conflict"); at > 0 && holds(body[at:last], "now") {
		*found = append(*found, onConflict)
		last = at
	}
	body = body[:last]
	if from := word("from"); body[0].word == "insert" && from < 0 && hasStatement(body) {
		*found = append(*found, subquery)
	}
	insertsSelected := body[0].word == "insert" && word("select") > 0
	if insertsSelected && readsTable(list) && !isVolatile(body, body[2].word) {
		*found = append(*found, reading)
	}
	forEach(body, func(list []expr, i int) {
		if !insertsSelected || list[i].word != "clock_timestamp" {
			checkExpression(list, i, found)
		}
	})
}

// checkExpression looks at the element i of a list in a write.
func checkExpression(list []expr, i int, found *[]string) {
	e := list[i]
	switch {
	case e.word == "case" && holds(e.group, "now"),
		e.word == "(" && i > 0 && list[i-1].word == "coalesce" && holds(e.group, "now"):
		*found = append(*found, inCase)
	case slices.Contains([]string{"clock_timestamp", "random", "gen_random_uuid", "timeofday"}, e.word):
		*found = append(*found, volatile)
	case e.word == "now" && i+3 < len(list) && (list[i+2].word == "+" || list[i+2].word == "-"):
		if next := list[i+3].word; !slices.Contains([]string{"sqlc", "interval", "nullif", "case", "make_interval"},
			next) && !strings.HasPrefix(next, "$") {
			*found = append(*found, withColumn)
		}
	}
}

// forEach calls do for each element of a list and of its groups, except those in inner statements.
func forEach(list []expr, do func(list []expr, i int)) {
	for i, e := range list {
		do(list, i)
		if !isStatement(e) {
			forEach(e.group, do)
		}
	}
}

func holds(list []expr, word string) bool {
	return slices.ContainsFunc(list, func(e expr) bool { return e.word == word || holds(e.group, word) })
}

func hasStatement(list []expr) (has bool) {
	forEach(list, func(list []expr, i int) { has = has || isStatement(list[i]) })
	return has
}

// writes is text that begins as a statement and writes.
var writes = regexp.MustCompile(`(?is)^\s*(?:with|insert|update|delete)\b.*\b(?:insert\s+into|update|delete\s+from)\b`)

// shopStatements returns the statements of the shop by the file that has them: sqlc's, and those
// that are text in Go.
func shopStatements(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	paths, err := filepath.Glob("db/queries/*/*.sql")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no queries: %v", err)
	}
	for _, path := range paths {
		all[path] = strings.Split(sqlComment.ReplaceAllString(read(t, path), ""), ";")
	}
	err = filepath.WalkDir("internal", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{"demo", "proof", "shoptest", "apptest"}, entry.Name()):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go"), strings.HasSuffix(path, "_test.go"), strings.HasSuffix(path, ".sql.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return fmt.Errorf("parse %s: %w", path, err)
		}
		ast.Inspect(file, func(node ast.Node) bool {
			text, isText := textOf(node)
			if isText && writes.MatchString(text) {
				all[path] = append(all[path], text)
			}
			return !isText
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// textOf returns the text of a literal, or of a sum of literals and other things.
func textOf(node ast.Node) (text string, ok bool) {
	switch node := node.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(node.Value)
		return text, node.Kind == token.STRING && err == nil
	case *ast.BinaryExpr:
		left, isLeft := textOf(node.X)
		right, isRight := textOf(node.Y)
		if node.Op != token.ADD || !isLeft && !isRight {
			return "", false
		}
		if !isLeft {
			left = " $1 "
		}
		if !isRight {
			right = " $1 "
		}
		return left + right, true
	}
	return "", false
}
