package security_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const document = "../../../docs/security.md"

// items are how many the list has.
const items = 25

var (
	row  = regexp.MustCompile(`(?m)^\| (\d+) \|.*\| ([^|]+) \|$`)
	test = regexp.MustCompile("`([a-z/]+) (Test\\w+)(?:/(\\w+))?`")
)

// Each item of docs/security.md names tests that there are.
func TestList(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	rows := row.FindAllStringSubmatch(string(text), -1)
	if len(rows) != items {
		t.Errorf("%d items, want %d", len(rows), items)
	}
	for i, r := range rows {
		if r[1] != strconv.Itoa(i+1) {
			t.Errorf("item %s stands where %d should", r[1], i+1)
		}
		tests := test.FindAllStringSubmatch(r[2], -1)
		if len(tests) == 0 || len(tests) != strings.Count(r[2], "`")/2 {
			t.Errorf("item %s does not name its tests: %s", r[1], r[2])
		}
		for _, named := range tests {
			if !exists(t, named[1], named[2], named[3]) {
				t.Errorf("item %s: there is no test %s in %s", r[1], strings.TrimSuffix(named[2]+"/"+named[3], "/"),
					named[1])
			}
		}
	}
}

// exists says whether a package has the test, and in the same file its part.
func exists(t *testing.T, folder, name, part string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../../..", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(t *testing.T) {") {
			return part == "" || strings.Contains(string(text), `t.Run("`+part+`", `)
		}
	}
	return false
}

// What a fork's CI does about the code of others.
func TestWorkflow(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../.github/workflows/ci.yml")
	if err != nil {
		t.Fatal(err)
	}
	workflow := string(text)
	for _, step := range []string{"govulncheck ./...", "go mod verify", "cyclonedx-gomod@v",
		"persist-credentials: false", "permissions:\n  contents: read\n"} {
		if !strings.Contains(workflow, step) {
			t.Errorf("no %q", step)
		}
	}
	uses := regexp.MustCompile(`uses: *(\S+)`).FindAllStringSubmatch(workflow, -1)
	pinned := regexp.MustCompile(`^[\w.-]+/[\w./-]+@[0-9a-f]{40}$`)
	for _, action := range uses {
		if !pinned.MatchString(action[1]) {
			t.Errorf("%s is not pinned by its digest", action[1])
		}
	}
	if len(uses) == 0 {
		t.Error("no action is used, so this tests nothing")
	}
}
