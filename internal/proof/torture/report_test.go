package torture

import (
	"strings"
	"testing"
	"time"
)

// TestShortRunIsNoFailure checks that a run that was too short for everything to happen is reported
// as one.
func TestShortRunIsNoFailure(t *testing.T) {
	t.Parallel()
	rare := []Happened{{What: "a rare fault", Times: 0, Least: 2}}
	for duration, want := range map[time.Duration]string{time.Minute: "run too short: 2 wanted",
		demanding: "NOT MET: 2 wanted"} {
		var out strings.Builder
		Report{Duration: duration, Happened: rare}.Write(&out)
		hint := strings.Contains(out.String(), "--duration 1m30s or more")
		if !strings.Contains(out.String(), want) || hint != (duration < demanding) {
			t.Errorf("%s: want %q in\n%s", duration, want, out.String())
		}
	}
}
