package lab

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Every function that an experiment shows is there, and is shown as it is in the repository.
func TestCodeOfExperiments(t *testing.T) {
	t.Parallel()
	for _, e := range Experiments() {
		for side, twin := range map[Side]Twin{NaiveSide: e.Naive, GuardedSide: e.Guarded} {
			if len(twin.Code) == 0 {
				t.Errorf("%s: the %s twin shows no code", e.ID, side)
			}
			for _, ref := range twin.Code {
				source, err := Code(ref)
				if err != nil {
					t.Errorf("%s: %v", e.ID, err)
					continue
				}
				if !inRepository(t, source) {
					t.Errorf("%s: %s is not at %s", e.ID, ref, source.Place)
				}
			}
		}
	}
}

// inRepository reports whether the text stands where it says.
func inRepository(t *testing.T, source Source) bool {
	t.Helper()
	file, lineText, _ := strings.Cut(source.Place, ":")
	line, err := strconv.Atoi(lineText)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "..", filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	return line <= len(lines) && strings.HasPrefix(strings.Join(lines[line-1:], ""), source.Text)
}

func TestCode(t *testing.T) {
	t.Parallel()
	method, err := Code("internal/orders/place.go:Service.Place")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(method.Text, "// Place ") || !strings.Contains(method.Text, "\nfunc (s *Service) Place(") ||
		!strings.HasSuffix(method.Text, "\n}") ||
		!strings.HasPrefix(method.Place, "internal/orders/place.go:") || !inRepository(t, method) {
		t.Errorf("%s\n%s", method.Place, method.Text)
	}
	for _, ref := range []string{"internal/orders/place.go:Place", "internal/orders/place.go",
		"internal/orders/nowhere.go:F", "nowhere.go:F", ""} {
		if source, err := Code(ref); err == nil {
			t.Errorf("%q shows %s", ref, source.Place)
		}
	}
}
