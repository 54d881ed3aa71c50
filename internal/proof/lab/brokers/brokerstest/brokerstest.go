// Package brokerstest compares what a broker answers now with what the lab has recorded of it.
package brokerstest

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/proof/lab/brokers"
)

// Update is the flag with which a test records.
var Update = flag.Bool("update", false, "record what the brokers answer now")

// Compare asks a broker and compares its name and answers with those that are recorded in the file.
// With Update, it records them.
func Compare(t *testing.T, file string, target brokers.Target) {
	t.Helper()
	now := brokers.Column{Broker: target.Broker, On: time.Now().UTC().Format(time.DateOnly),
		Answers: map[string]brokers.Answer{}}
	err := brokers.Ask(t.Context(), target, func(q brokers.Question, a brokers.Answer) {
		t.Logf("%s: %s", q.Title, a)
		now.Answers[q.ID] = a
	})
	if err != nil {
		t.Fatal(err)
	}
	if *Update {
		text, err := json.MarshalIndent(now, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(text, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var before brokers.Column
	if err := json.Unmarshal(text, &before); err != nil {
		t.Fatal(err)
	}
	if now.Broker != before.Broker || !maps.Equal(now.Answers, before.Answers) {
		t.Errorf("the broker or its answers changed: go test -update records them in %s\n%+v\n%+v", file, now, before)
	}
}
