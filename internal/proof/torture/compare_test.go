package torture

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// A charge of which a client was told that it was declined must not have taken money, whatever
// became of that later.
func TestDeclinedAndCaptured(t *testing.T) {
	t.Parallel()
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"captures": [{"id": "cap_1", "reference": "captured", "status": "succeeded"},
			{"id": "cap_2", "reference": "declined", "status": "declined"}]}`)
	}))
	defer provider.Close()
	for id, violations := range map[string]int{"captured": 1, "declined": 0, "neither": 0} {
		r := &run{Options: Options{Progress: io.Discard}, begin: time.Now()}
		r.servers.psp = &server{address: hostOf(provider.URL)}
		told := withCode(said(1, 2, 0, 402, id), "declined")
		r.world.intents = []*intent{{customer: &customer{}, op: charging, calls: []call{told, told}},
			{customer: &customer{}, op: charging, calls: []call{said(1, 2, 0, 201, "captured")}}}
		if err := r.compareDeclines(t.Context()); err != nil || len(r.violations) != violations {
			t.Errorf("%s: %v, %v, want %d violations", id, r.violations, err, violations)
		}
	}
}

// What is away makes a 503. A 500 is a mistake of the shop.
func TestAnswered500(t *testing.T) {
	t.Parallel()
	for status, violations := range map[int]int{0: 0, 201: 0, 500: 1, 503: 0} {
		r := &run{Options: Options{Progress: io.Discard}, begin: time.Now()}
		r.world.intents = []*intent{{customer: &customer{}, op: placing, calls: []call{said(1, 2, 0, status, "a")}}}
		if err := r.compareFailures(t.Context()); err != nil || len(r.violations) != violations {
			t.Errorf("%d: %v, %v, want %d violations", status, r.violations, err, violations)
		}
	}
}
