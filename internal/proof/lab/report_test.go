package lab

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/redisclient"
)

func ran(verdict, expected Verdict, effects ...Effect) Outcome {
	return Outcome{Verdict: verdict, Expected: expected, Effects: effects}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	twice, once := Effect{Name: "orders", Want: 1, Got: 2}, Effect{Name: "orders", Want: 1, Got: 1}
	naive, guarded := ran(Duplicates, Duplicates, twice), ran(Holds, Holds, once)
	for name, c := range map[string]struct {
		result Result
		says   []string // nothing is wrong if empty
	}{
		"as it should be": {Result{"e", naive, guarded}, nil},
		"a guarded twin fails": {Result{"e", naive, ran(Duplicates, Holds, twice)},
			[]string{"e: the guarded twin duplicates", "orders: 2 instead of 1", "holds"}},
		"a guarded twin loses": {Result{"e", naive, ran(Loses, Holds, Effect{Name: "mails", Want: 1})},
			[]string{"guarded", "loses", "mails: 0 instead of 1"}},
		"a naive twin holds": {Result{"e", ran(Holds, Duplicates, once), guarded},
			[]string{"e: the naive twin holds", "duplicates"}},
		"a naive twin errs wrong": {Result{"e", ran(Loses, Duplicates, once), guarded},
			[]string{"naive", "loses", "duplicates"}},
		"a twin could not be run": {Result{"e", naive, Outcome{Expected: Holds, Failure: "no socket"}},
			[]string{"guarded", "could not be run", "no socket"}},
		"both go wrong": {Result{"e", ran(Holds, Loses, once), ran(Loses, Holds, twice)},
			[]string{"guarded", "naive"}},
		"a naive twin that breaks": {Result{"e", Outcome{Expected: Loses, Failure: "panic"}, guarded},
			[]string{"naive", "panic"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			said := strings.Join(Report{Results: []Result{c.result}}.Problems(), "\n")
			if (said == "") != (c.says == nil) {
				t.Errorf("says %q", said)
			}
			for _, want := range c.says {
				if !strings.Contains(said, want) {
					t.Errorf("%q does not say %q", said, want)
				}
			}
		})
	}
}

func TestRounded(t *testing.T) {
	t.Parallel()
	for exact, want := range map[time.Duration]string{0: "0s", 312: "312ns", 45678: "45.7µs", 1234567: "1.23ms",
		1999999999: "2s"} {
		if got := Rounded(exact).String(); got != want {
			t.Errorf("%d: %s, want %s", exact, got, want)
		}
	}
}

// The measurement leaves nothing behind.
func TestLatency(t *testing.T) {
	t.Parallel()
	l := setup(t)
	measured, err := l.Latency(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	of := map[Strategy]bool{}
	for _, m := range measured {
		of[m.Strategy] = true
		if m.Samples == 0 || m.Median <= 0 || m.P95 < m.Median {
			t.Errorf("%+v", m)
		}
	}
	if len(of) != len(Strategies) {
		t.Errorf("measured %v", measured)
	}
	servers, err := l.servers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	left, err := Rows(t.Context(), servers.Naive, "SELECT count(*) FROM decisions")
	if err != nil || left != 0 {
		t.Errorf("%d rows are left (%v)", left, err)
	}
	for name := range servers.JS.StreamNames(t.Context()).Name() {
		if strings.HasPrefix(name, "LAB-LATENCY") {
			t.Errorf("the stream %s is left", name)
		}
	}
}

// A Redis that is too slow ends no measurement, as it ends no work.
func TestClaimWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	client, err := redisclient.Open("redis://" + mute.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := claim(t.Context(), dedup.NewClaims(client, "lab:"), "k"); err != nil {
		t.Error(err)
	}
}
