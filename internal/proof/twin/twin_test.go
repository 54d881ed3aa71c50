package twin_test

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/proof/twin"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// config tests s with all that a service can give.
func config(t *testing.T, s *service, rules string) twin.Config {
	t.Helper()
	id, err := twin.ParseJSONPath("$.id")
	if err != nil {
		t.Fatal(err)
	}
	by, ok := twin.FindRules(rules)
	if !ok {
		t.Fatal(rules)
	}
	return twin.Config{
		URL: s.nodes[0].URL, Also: s.nodes[1].URL, Method: http.MethodPost, Path: "/things",
		KeyHeader:   "Idempotency-Key",
		Header:      http.Header{"Authorization": {"Bearer alice"}},
		OtherHeader: http.Header{"Authorization": {"Bearer bob"}},
		Body:        `{"name":"{{unique}}","n":1,"tags":["b","a"]}`, ID: id, Rules: by, Restart: s.restart, Age: s.age,
		FailHeader: http.Header{"X-Fail": {"1"}}, Concurrency: 20, Patience: 5 * time.Second, Progress: s.ask,
	}
}

// begin starts a run, and end waits for its report. Runs wait most of the time: all of them
// at once take as long as one, and parallel tests are only as many as there are cores.
func begin(t *testing.T, how twin.Config) (end func() (twin.Report, error)) {
	t.Helper()
	var report twin.Report
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		report, err = twin.Run(t.Context(), how)
	}()
	return func() (twin.Report, error) {
		<-done
		return report, err
	}
}

// Each mistake of a service makes exactly the lines fail that are about it.
func TestEachMistakeFailsItsLines(t *testing.T) {
	t.Parallel()
	type verdicts map[string]twin.Verdict
	// An effect whose answer got lost has no id that could be seen.
	unanswered := map[string]bool{"client-gone": true, "restart-during": true}
	for name, c := range map[string]struct {
		mistakes
		want verdicts
	}{
		"none": {},
		"no guard": {mistakes{noGuard: true}, verdicts{
			"key-quoted": twin.Twice, "key-255": twin.Twice, "replay": twin.Twice, "replay-header": twin.Twice,
			"replay-later": twin.Twice, "other-meaning": twin.Twice, "other-spelling": twin.Twice,
			"other-number": twin.Twice, "other-order": twin.Twice, "null-member": twin.Twice, "twins": twin.Twice,
			"twins-two-nodes": twin.Twice, "in-flight": twin.Twice, "client-gone": twin.Twice,
			"restart-after": twin.Twice, "replay-next-day": twin.Twice}},
		"key before the effect": {mistakes{keyBefore: true}, verdicts{"restart-during": twin.Lost}},
		"key after the effect": {mistakes{keyAfter: true}, verdicts{"twins": twin.Twice, "twins-two-nodes": twin.Twice,
			"in-flight": twin.Twice, "client-gone": twin.Twice, "restart-during": twin.Twice}},
		"keys per process": {mistakes{perProcess: true}, verdicts{"twins-two-nodes": twin.Twice,
			"restart-after": twin.Twice}},
		"global scope": {mistakes{globalScope: true}, verdicts{"other-customer": twin.Leaked}},
		"keeps 5xx":    {mistakes{keeps5xx: true}, verdicts{"after-5xx": twin.Differs}},
		"binds 4xx":    {mistakes{binds4xx: true}, verdicts{"after-4xx": twin.Differs}},
		"compares bytes": {mistakes{comparesBytes: true}, verdicts{"other-spelling": twin.Differs,
			"other-number": twin.Differs, "null-member": twin.Differs}},
		"forgets after a restart": {mistakes{forgets: true}, verdicts{"restart-after": twin.Twice}},
		"forgets within a day":    {mistakes{briefly: true}, verdicts{"replay-next-day": twin.Twice}},
		// What was sent for a question that cannot be asked is no late effect.
		"takes every body": {mistakes{takesAll: true}, verdicts{"after-4xx": twin.NotAsked,
			"after-5xx": twin.NotAsked}},
	} {
		for _, witness := range []string{"ids", "count"} {
			s := start(t, c.mistakes)
			how := config(t, s, "shop")
			if witness == "count" {
				how.Count = s.count
			}
			if c.keyBefore || c.keeps5xx { // some of their answers are never final
				how.Patience = time.Second
			}
			end := begin(t, how)
			t.Run(name+" by "+witness, func(t *testing.T) {
				t.Parallel()
				report, err := end()
				if err != nil {
					t.Fatal(err)
				}
				for _, line := range report.Lines {
					want := c.want[line.Question]
					switch {
					case witness == "ids" && want == twin.Twice && unanswered[line.Question]:
						want = twin.Passed
						if !strings.Contains(line.Got, "--count") {
							t.Errorf("%s hides that it saw ids only: %+v", line.Question, line)
						}
					case want != "":
					case line.Question == "whole-run" && witness == "ids":
						want = twin.NotAsked
					default:
						want = twin.Passed
					}
					if line.Verdict != want {
						t.Errorf("%s: got %s, want %s: %+v", line.Question, line.Verdict, want, line)
					}
				}
			})
		}
	}
}

// Each rule of the Agentic Commerce Protocol has a question, and a service that breaks one rule
// differs in that line only.
func TestACP(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		mistakes
		breaks  string
		verdict twin.Verdict // Differs if empty
	}{
		"none":                      {},
		"the key is optional (6.1)": {mistakes: mistakes{keyOptional: true}, breaks: "key-missing"},
		"compares bytes (6.2)":      {mistakes: mistakes{comparesBytes: true}, breaks: "other-spelling other-number"},
		"null is absent (6.2)":      {mistakes: mistakes{nullAbsent: true}, breaks: "null-member"},
		"lists are sets (6.2)":      {mistakes: mistakes{listsAreSets: true}, breaks: "other-order"},
		"replays look new (6.3)":    {mistakes: mistakes{noMark: true}, breaks: "replay-header"},
		"409 has no time (6.4)":     {mistakes: mistakes{noRetryAfter: true}, breaks: "in-flight"},
		"the codes are others (6.4)": {mistakes: mistakes{foreignCodes: true},
			breaks: "key-missing other-meaning other-order in-flight"},
		"keeps 5xx (6.5)":            {mistakes: mistakes{keeps5xx: true}, breaks: "after-5xx"},
		"forgets within a day (6.6)": {mistakes{briefly: true}, "replay-next-day", twin.Twice},
	} {
		s := start(t, c.mistakes)
		s.acp = true
		end := begin(t, config(t, s, "acp"))
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report, err := end()
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range report.Lines {
				want := twin.NoRule
				switch {
				case slices.Contains(strings.Fields(c.breaks), line.Question):
					want = cmp.Or(c.verdict, twin.Differs)
				case line.Question == "whole-run":
					want = twin.NotAsked // there is no witness
				case line.Rule != "":
					want = twin.Passed
				}
				if line.Verdict != want {
					t.Errorf("got %s, want %s: %+v", line.Verdict, want, line)
				}
			}
		})
	}
}

// A service without ids in its answers is judged by the witness alone.
func TestWithoutIDs(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	for name, c := range map[string]struct {
		mistakes
		want map[string]twin.Verdict
	}{
		"none": {mistakes{silent: true}, nil},
		"global scope": {mistakes{silent: true, globalScope: true},
			map[string]twin.Verdict{"other-customer": twin.Lost}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, c.mistakes)
			how := config(t, s, "ietf")
			how.Count = s.count
			report, err := twin.Run(t.Context(), how)
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range report.Lines {
				want := c.want[line.Question]
				if line.Verdict != want && (want != "" || line.Verdict != twin.Passed && line.Verdict != twin.NoRule) {
					t.Errorf("%+v", line)
				}
			}
		})
	}
}

// Nothing between the questions and the service sends a request a second time, also if its
// connection breaks.
func TestEachRequestIsSentOnce(t *testing.T) {
	t.Parallel()
	s := start(t, mistakes{})
	report, err := twin.Run(t.Context(), config(t, s, "shop"))
	if err != nil {
		t.Fatal(err)
	}
	const malformed = 1 // does not reach the handler
	if hits := int(s.hits.Load()); hits+malformed != report.Requests {
		t.Errorf("%d requests arrived, %d were sent", hits, report.Requests)
	}
}

// A redirect to another host is an answer and is not followed.
func TestOnlyTheGivenHosts(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("another host was asked")
	}))
	defer other.Close()
	s := start(t, mistakes{})
	redirecting := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer redirecting.Close()
	how := config(t, s, "ietf")
	how.URL = redirecting.URL
	_, err := twin.Run(t.Context(), how)
	if _, ok := errors.AsType[twin.WrongUseError](err); !ok || !strings.Contains(err.Error(), "307") {
		t.Errorf("got %v", err)
	}
}

// restless returns a witness that sees another effect each time.
func restless() func(context.Context) (int, error) {
	n := 0
	return func(context.Context) (int, error) {
		n++
		return n, nil
	}
}

func TestWrongUse(t *testing.T) {
	t.Parallel()
	s := start(t, mistakes{})
	for name, change := range map[string]func(*twin.Config){
		"no address":    func(c *twin.Config) { c.URL = "shop" },
		"second node":   func(c *twin.Config) { c.Also = "ftp://x" },
		"concurrency":   func(c *twin.Config) { c.Concurrency = 1 },
		"restless":      func(c *twin.Config) { c.Count = restless() },
		"refused":       func(c *twin.Config) { c.Body = "{" },
		"no id there":   func(c *twin.Config) { c.ID, _ = twin.ParseJSONPath("$.data.id") },
		"wrong address": func(c *twin.Config) { c.URL += "\x00" },
	} {
		how := config(t, s, "ietf")
		change(&how)
		_, err := twin.Run(t.Context(), how)
		if _, ok := errors.AsType[twin.WrongUseError](err); !ok {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestJSONPath(t *testing.T) {
	t.Parallel()
	const document = `{"id":"a","n":12345678901234567890,"data":{"items":[{"id":"b"},{"id":7}]},"odd name":"c",
		"list":["d"]}`
	for path, want := range map[string]string{"$.id": "a", "$.n": "12345678901234567890", "$.data.items[1].id": "7",
		"$['odd name']": "c",
		"$.list[0]":     "d", "$.list[1]": "", "$.data": "", "$.id.id": "", "$.list.id": "", "$": ""} {
		parsed, err := twin.ParseJSONPath(path)
		if got := parsed.Find([]byte(document)); err != nil || got != want {
			t.Errorf("%s: got %q, %v", path, got, err)
		}
	}
	for _, path := range []string{"", "id", "$id", "$..id", "$.*", "$.a[b]", "$.", "$[?@.a]"} {
		if _, err := twin.ParseJSONPath(path); err == nil {
			t.Errorf("%q was taken", path)
		}
	}
}
