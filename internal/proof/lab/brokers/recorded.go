package brokers

import (
	"embed"
	"encoding/json"
	"io/fs"
	"path"
	"strings"
)

//go:embed recorded/*.json
var recorded embed.FS

// Column is what one broker answered.
type Column struct {
	// ID is one word, as in "nats".
	ID     string `json:"-"`
	Broker string `json:"broker"`
	// On is the day, as in "2026-11-29".
	On      string            `json:"on"`
	Answers map[string]Answer `json:"answers"` // by the question's ID
}

// Recorded returns the last recorded run of each broker.
func Recorded() []Column {
	names, err := fs.Glob(recorded, "recorded/*.json")
	if err != nil {
		panic(err)
	}
	columns := make([]Column, len(names))
	for i, name := range names {
		text, err := recorded.ReadFile(name)
		if err != nil {
			panic(err)
		}
		if err := json.Unmarshal(text, &columns[i]); err != nil {
			panic(name + ": " + err.Error())
		}
		columns[i].ID = strings.TrimSuffix(path.Base(name), ".json")
	}
	return columns
}
