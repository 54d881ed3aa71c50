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

// items are how many the list has at least. It has each number once, in order.
const items = 40

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
	if len(rows) < items {
		t.Errorf("%d items, want %d", len(rows), items)
	}
	last := 0
	for _, r := range rows {
		number, err := strconv.Atoi(r[1])
		if err != nil || number <= last || number != last+1 && last < items {
			t.Errorf("item %s stands after %d", r[1], last)
		}
		last = number
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

// exists reports whether a package has the test, and in the same file its part. The tests of a demo
// that was removed count as there.
func exists(t *testing.T, folder, name, part string) bool {
	t.Helper()
	if _, err := os.Stat("../../demo"); os.IsNotExist(err) && strings.HasPrefix(folder, "internal/demo") {
		return true
	}
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

// What a fork's CI does about the code of others, in every workflow.
func TestWorkflow(t *testing.T) {
	t.Parallel()
	const folder = "../../../.github/workflows/"
	files, err := filepath.Glob(folder + "*.yml")
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		workflow := string(text)
		steps := []string{"persist-credentials: false", "permissions:\n  contents: read\n"}
		switch filepath.Base(file) {
		case "ci.yml":
			steps = append(steps, "govulncheck ./...", "go mod verify", "cyclonedx-gomod@v")
		case "release.yml":
			steps = append(steps, "--sbom=true --provenance=mode=max", "subject-digest: ", "cyclonedx-gomod@v")
		}
		for _, step := range steps {
			if !strings.Contains(workflow, step) {
				t.Errorf("%s: no %q", file, step)
			}
		}
		uses := regexp.MustCompile(`uses: *(\S+)`).FindAllStringSubmatch(workflow, -1)
		pinned := regexp.MustCompile(`^[\w.-]+/[\w./-]+@[0-9a-f]{40}$`)
		for _, action := range uses {
			if !pinned.MatchString(action[1]) {
				t.Errorf("%s: %s is not pinned by its digest", file, action[1])
			}
		}
		if len(uses) == 0 {
			t.Errorf("%s uses no action, so this tests nothing", file)
		}
	}
}
