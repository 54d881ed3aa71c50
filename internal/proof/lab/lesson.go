package lab

import (
	"fmt"
	"strings"

	"github.com/onceshop/onceshop"
)

// Lesson is the text of an experiment. The docs have it too, as docs/lab/ID.md.
type Lesson struct {
	// Fault names what goes wrong, in a few words.
	Fault string
	// Story is what happens, in a sentence or two. Why explains it, in paragraphs. Both are
	// Markdown with code and emphasis.
	Story string
	Why   []string
}

// lessonOf reads the lesson of an experiment. Without one, the program is built wrong.
func lessonOf(id string) Lesson {
	text, err := onceshop.Source.ReadFile("docs/lab/" + id + ".md")
	if err != nil {
		panic(fmt.Errorf("lab: the lesson of %s: %w", id, err))
	}
	title, rest, _ := strings.Cut(string(text), "\n\n")
	story, why, _ := strings.Cut(rest, "\n\n## Why\n\n")
	lesson := Lesson{Fault: strings.TrimPrefix(title, "# "), Story: unwrapped(story)}
	for paragraph := range strings.SplitSeq(strings.TrimSpace(why), "\n\n") {
		lesson.Why = append(lesson.Why, unwrapped(paragraph))
	}
	return lesson
}

func unwrapped(paragraph string) string { return strings.ReplaceAll(paragraph, "\n", " ") }
