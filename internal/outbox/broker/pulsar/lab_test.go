//go:build proof

package pulsar

import (
	"context"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/internal/proof/lab/brokers"
	"github.com/onceshop/onceshop/internal/shoptest"
)

var update = flag.Bool("update", false, "record what the broker answers now")

// TestLab compares what Pulsar answers to the lab's questions with what is recorded for the lab.
func TestLab(t *testing.T) {
	t.Parallel()
	const path = "../../../proof/lab/brokers/recorded/pulsar.json"
	s := startServer(t, deduplicates)
	now := brokers.Column{Broker: "Apache Pulsar " + serverVersion, On: time.Now().UTC().Format(time.DateOnly),
		Answers: map[string]brokers.Answer{}}
	err := brokers.Ask(t.Context(), brokers.Target{
		Broker: now.Broker, Type: paid, Consumer: "lab", Pool: shoptest.DB(t),
		Connect: func(ctx context.Context, publisher string) (broker.Broker, error) {
			b, err := Connect("pulsar://"+s.broker, Settings{Consumers: []string{"lab"}, MaxAge: time.Hour,
				Publisher: publisher}, quiet)
			if err != nil {
				return nil, err
			}
			return b, b.Open(ctx)
		},
		Restart: func(context.Context) error {
			s.Restart()
			return nil
		},
	}, func(q brokers.Question, a brokers.Answer) {
		t.Logf("%s: %s", q.Title, a)
		now.Answers[q.ID] = a
	})
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		text, err := json.MarshalIndent(now, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(text, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var before brokers.Column
	if err := json.Unmarshal(text, &before); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(now.Answers, before.Answers) {
		t.Errorf("the answers changed: go test -tags proof -run TestLab -update records them\n%+v\n%+v",
			now.Answers, before.Answers)
	}
}
