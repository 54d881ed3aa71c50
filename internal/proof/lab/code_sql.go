package lab

import (
	"regexp"
	"slices"
	"strings"
)

var (
	createTable = regexp.MustCompile(`^CREATE TABLE (?:IF NOT EXISTS )?(\w+)`)
	createIndex = regexp.MustCompile(`^CREATE UNIQUE INDEX (\w+)`)
	constraint  = regexp.MustCompile(`^\s+CONSTRAINT (\w+)`)
	// firstColumns are the columns in the first parentheses of a constraint.
	firstColumns = regexp.MustCompile(`\(([\w, ]+)\)`)
)

// findSQL returns a query, a table, an index, or the part of a table that is about a constraint,
// and the number of the first line.
func findSQL(content, name, within string) (text string, line int, err error) {
	lines := strings.Split(content, "\n")
	table := -1
	for i, l := range lines {
		switch {
		case strings.HasPrefix(l, "-- name: "+name+" "), matches(createIndex, l, name):
			begin, end := commentAbove(lines, i), endOf(lines, i)
			return strings.Join(lines[begin:end], "\n"), begin + 1, nil
		case createTable.MatchString(l):
			table = i
			if matches(createTable, l, name) {
				text, line = tableAt(lines, i, within)
				return text, line, nil
			}
		case matches(constraint, l, name) && table >= 0:
			text, line = tableAt(lines, table, "CONSTRAINT "+name+" ")
			return text, line, nil
		}
	}
	return "", 0, errNotInFile
}

func matches(pattern *regexp.Regexp, line, name string) bool {
	found := pattern.FindStringSubmatch(line)
	return found != nil && found[1] == name
}

// tableAt returns the table that is created at a line: all of it, or only what a constraint is
// about.
func tableAt(lines []string, at int, about string) (text string, line int) {
	begin, end := commentAbove(lines, at), endOf(lines, at)
	if about == "" {
		return strings.Join(lines[begin:end], "\n"), begin + 1
	}
	body := lines[at+1 : end-1]
	kept := slices.Clone(lines[begin : at+1])
	columns := columnsOf(body, about)
	for _, l := range body {
		words := strings.Fields(l)
		switch {
		case strings.Contains(l, about), len(words) > 0 && slices.Contains(columns, words[0]):
			kept = append(kept, l)
		case kept[len(kept)-1] != omitted:
			kept = append(kept, omitted)
		}
	}
	return strings.Join(append(kept, lines[end-1]), "\n"), begin + 1
}

// columnsOf returns the columns of the constraint whose line contains the text.
func columnsOf(body []string, about string) []string {
	for _, l := range body {
		if _, rest, ok := strings.Cut(l, about); ok {
			if found := firstColumns.FindStringSubmatch(rest); found != nil {
				return strings.Split(found[1], ", ")
			}
		}
	}
	return nil
}

// commentAbove returns the line where the comment above a line begins.
func commentAbove(lines []string, at int) int {
	for at > 0 && strings.HasPrefix(lines[at-1], "-- ") && !strings.HasPrefix(lines[at-1], "-- +goose") {
		at--
	}
	return at
}

// endOf returns the line after the end of the statement at a line.
func endOf(lines []string, at int) int {
	for at < len(lines) && (strings.HasPrefix(lines[at], "--") || !strings.HasSuffix(lines[at], ";")) {
		at++
	}
	return min(at+1, len(lines))
}
