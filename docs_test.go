package onceshop_test

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "set the line numbers of links such as [`func Once`](unique.go#L59)")

var (
	lineLink   = regexp.MustCompile("\\[`([^`]+)`\\]\\(([^)#]+)#L(\\d+)\\)")
	fileLink   = regexp.MustCompile(`\]\(([^)#:\s]+)(?:#[^)]*)?\)`)
	decided    = regexp.MustCompile(`(?m)^- \*\*([DP]\d+)\. `)
	decisionOf = regexp.MustCompile(`(decisions|performance)\.md,[\s/]+([DP]\d+)`)
)

// documents returns the texts of docs and of the documents in the root by their path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, path := range append(paths, "README.md", "CONTRIBUTING.md", "SECURITY.md", "llms.txt") {
		texts[path] = read(t, path)
	}
	return texts
}

// removed reports whether a file is part of a wing that a fork has taken out.
func removed(path string) bool {
	parts := strings.SplitN(filepath.ToSlash(path), "/", 3)
	if len(parts) < 3 || parts[0] != "internal" || parts[1] != "demo" && parts[1] != "proof" {
		return false
	}
	_, err := os.Stat(filepath.Join(parts[0], parts[1]))
	return os.IsNotExist(err)
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A link such as [`func Once`](internal/dedup/unique.go#L59) names a line that contains its text.
func TestLinksNameTheirLines(t *testing.T) {
	t.Parallel()
	for path, text := range documents(t) {
		fixed := lineLink.ReplaceAllStringFunc(text, func(link string) string {
			part := lineLink.FindStringSubmatch(link)
			target := filepath.Join(filepath.Dir(path), part[2])
			if removed(target) {
				return link
			}
			lines := strings.Split(read(t, target), "\n")
			n, _ := strconv.Atoi(part[3])
			if n >= 1 && n <= len(lines) && strings.Contains(lines[n-1], part[1]) {
				return link
			}
			at := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, part[1]) })
			switch {
			case at < 0:
				t.Errorf("%s: %s contains no %q", path, target, part[1])
			case !*update:
				t.Errorf("%s: %q is line %d of %s, not %d; go test . -update sets it", path, part[1], at+1, target, n)
			}
			return "[`" + part[1] + "`](" + part[2] + "#L" + strconv.Itoa(at+1) + ")"
		})
		if *update && fixed != text {
			if err := os.WriteFile(path, []byte(fixed), 0o600); err != nil {
				t.Error(err)
			}
		}
	}
}

// Each strategy's row in the README leads to its mechanism, statement, constraint and place of use.
func TestReadmeLeadsToEachStrategy(t *testing.T) {
	t.Parallel()
	for n, file := range []string{"unique.go", "memory.go", "redis.go", "broker.go"} {
		row := regexp.MustCompile(`(?m)^\| ` + strconv.Itoa(n+1) + ` \|.*$`).FindString(read(t, "README.md"))
		links := lineLink.FindAllStringSubmatch(row, -1)
		if len(links) != 4 {
			t.Errorf("strategy %d has %d links, want 4: %s", n+1, len(links), row)
			continue
		}
		if links[0][2] != "internal/dedup/"+file {
			t.Errorf("the mechanism of strategy %d is in %s, want %s", n+1, links[0][2], file)
		}
		if use := links[3][2]; strings.HasPrefix(use, "internal/dedup/") {
			t.Errorf("the place of use of strategy %d is in %s", n+1, use)
		}
	}
}

// The layout names every folder of internal.
func TestLayoutNamesEveryPackage(t *testing.T) {
	t.Parallel()
	folders, err := filepath.Glob("internal/*")
	if err != nil || len(folders) < 15 {
		t.Fatalf("%d folders, %v", len(folders), err)
	}
	layout := read(t, "docs/layout.md")
	for _, folder := range folders {
		if !strings.Contains(layout, "`"+folder+"`") {
			t.Errorf("docs/layout.md does not name %s", folder)
		}
	}
}

var setting = regexp.MustCompile(`env:"([A-Z_]+)"`)

// Operators find every setting in one place.
func TestSettingsAreDocumented(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("internal/app/*.go")
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, "internal/tracing/export.go")
	operating, seen := read(t, "docs/operating.md"), 0
	for _, file := range files {
		for _, found := range setting.FindAllStringSubmatch(read(t, file), -1) {
			seen++
			if !strings.Contains(operating, "`"+found[1]+"`") && !strings.Contains(operating, "`"+found[1]+"=1`") {
				t.Errorf("docs/operating.md does not name %s", found[1])
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d settings seen", seen)
	}
}

func TestLinksLeadToFiles(t *testing.T) {
	t.Parallel()
	seen := 0
	for path, text := range documents(t) {
		for _, link := range fileLink.FindAllStringSubmatch(text, -1) {
			seen++
			target := filepath.Join(filepath.Dir(path), link[1])
			if _, err := os.Stat(target); err != nil && !removed(target) {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d links seen", seen)
	}
}

// quote is a block of code in the tour and the link above it, which names its file.
var quote = regexp.MustCompile("(?s)\\n([^\n]*)\n\n```(?:go|sql)\n(.*?)\n```")

// The tour's code is in the files that it names, in stops of 30 lines at most. A line "// …" leaves
// lines out.
func TestTourQuotesTheCode(t *testing.T) {
	t.Parallel()
	stops := strings.Split(read(t, "docs/tour.md"), "\n## ")
	quotes := 0
	for _, stop := range stops {
		lines := 0
		for _, found := range quote.FindAllStringSubmatch(stop, -1) {
			quotes++
			lines += 1 + strings.Count(found[2], "\n")
			link := lineLink.FindStringSubmatch(found[1])
			if link == nil {
				t.Errorf("no link above the quote %q", found[2])
				continue
			}
			file := filepath.Join("docs", link[2])
			if removed(file) {
				continue
			}
			rest := spaced(read(t, file))
			for _, part := range strings.Split(found[2], "// …") {
				_, after, ok := strings.Cut(rest, spaced(part))
				if !ok {
					t.Errorf("%s does not contain, in this order:\n%s", file, part)
					break
				}
				rest = after
			}
		}
		if title, _, _ := strings.Cut(stop, "\n"); lines > 30 {
			t.Errorf("%q quotes %d lines, want 30 at most", title, lines)
		}
	}
	if len(stops) < 6 || quotes < 10 {
		t.Errorf("%d parts with %d quotes: is the tour complete?", len(stops), quotes)
	}
}

// spaced returns the text with single spaces.
func spaced(text string) string { return strings.Join(strings.Fields(text), " ") }

// A picture loads at once, also on a slow line.
func TestPicturesAreSmall(t *testing.T) {
	t.Parallel()
	pictures, err := filepath.Glob("docs/pictures/*")
	if err != nil || len(pictures) < 2 {
		t.Fatalf("%d pictures, %v", len(pictures), err)
	}
	for _, picture := range pictures {
		if size := len(read(t, picture)); size > 150<<10 || size < 1<<10 {
			t.Errorf("%s has %d bytes, want at most 150 KiB", picture, size)
		}
	}
}

// Comments refer to decisions by number: "docs/decisions.md, D12".
func TestDecisionsExist(t *testing.T) {
	t.Parallel()
	known := map[string][]string{}
	for _, name := range []string{"decisions", "performance"} {
		for _, found := range decided.FindAllStringSubmatch(read(t, "docs/"+name+".md"), -1) {
			if slices.Contains(known[name], found[1]) {
				t.Errorf("%s.md has two decisions %s", name, found[1])
			}
			known[name] = append(known[name], found[1])
		}
	}
	references := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !slices.Contains([]string{".go", ".sql", ".md"}, filepath.Ext(path)) {
			return err
		}
		for _, found := range decisionOf.FindAllStringSubmatch(read(t, path), -1) {
			references++
			if !slices.Contains(known[found[1]], found[2]) {
				t.Errorf("%s refers to %s, which is not in %s.md", path, found[2], found[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if references < 12 {
		t.Errorf("only %d references to decisions seen", references)
	}
}
