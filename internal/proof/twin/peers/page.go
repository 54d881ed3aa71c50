package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// report is what shop twin --json prints.
type report struct {
	Begun string `json:"begun"`
	Lines []struct {
		Question, Sent, Expected, Outcome, Got, Verdict string
		Effects                                         int `json:"effects"`
		Want                                            int `json:"effects_wanted"`
	} `json:"lines"`
}

//go:embed head.md
var head string

func writePage(peers []peer) error {
	var out bytes.Buffer
	out.WriteString(head)
	found := make([]report, len(peers))
	for n, p := range peers {
		text, err := os.ReadFile(filepath.Join(reports, p.Name+".json"))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, &found[n]); err != nil {
			return err
		}
	}
	out.WriteString("| question |")
	for _, p := range peers {
		fmt.Fprintf(&out, " %s |", p.Name)
	}
	out.WriteString("\n| --- |" + strings.Repeat(" --- |", len(peers)) + "\n")
	for n, line := range found[0].Lines {
		fmt.Fprintf(&out, "| %s |", line.Question)
		for _, r := range found {
			fmt.Fprintf(&out, " %s |", bold(r.Lines[n].Verdict))
		}
		out.WriteString("\n")
	}
	for n, p := range peers {
		writePeer(&out, p, found[n])
	}
	return os.WriteFile(page, out.Bytes(), 0o644)
}

func harm(verdict string) bool { return verdict == "TWICE" || verdict == "LOST" || verdict == "LEAKED" }

func bold(verdict string) string {
	if harm(verdict) {
		return "**" + verdict + "**"
	}
	return verdict
}

func writePeer(out *bytes.Buffer, p peer, r report) {
	day, _, _ := strings.Cut(r.Begun, "T")
	fmt.Fprintf(out, "\n## %s\n\n%s, measured on %s. [Report](twin-others/%s.json).\n\n"+
		"What it promises ([its documentation](%s)): %s\n\n", p.Title, p.Version, day, p.Name, p.Source, p.Promise)
	out.WriteString("| question | sent | seen | effects | verdict |\n| --- | --- | --- | --- | --- |\n")
	for _, line := range r.Lines {
		if harm(line.Verdict) || line.Verdict == "differs" {
			fmt.Fprintf(out, "| %s | %s | %s (%s) | %d of %d | %s |\n", line.Question, line.Sent, line.Outcome,
				line.Got, line.Effects, line.Want, bold(line.Verdict))
		}
	}
}
