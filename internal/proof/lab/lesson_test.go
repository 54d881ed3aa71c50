package lab

import (
	"path/filepath"
	"strings"
	"testing"
)

// Every experiment has a lesson in the docs, and every lesson is of an experiment.
func TestLessons(t *testing.T) {
	t.Parallel()
	for _, e := range Experiments() {
		if e.Fault == "" || strings.ContainsAny(e.Fault, "#\n") || len(e.Story) < 40 || len(e.Why) < 2 {
			t.Errorf("%s: %+v", e.ID, e.Lesson)
		}
		for _, paragraph := range append(e.Why, e.Story) {
			if paragraph == "" || strings.Contains(paragraph, "\n") || strings.HasPrefix(paragraph, "#") {
				t.Errorf("%s: the paragraph %q", e.ID, paragraph)
			}
		}
	}
	files, err := filepath.Glob("../../../docs/lab/*.md")
	if err != nil || len(files) != len(Experiments()) {
		t.Errorf("%d lessons of %d experiments, %v", len(files), len(Experiments()), err)
	}
}
