package torture

import (
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/google/go-cmp/cmp"
)

// said is an answer that came between two times.
func said(at, returned int, variant, status int, id string) call {
	c := call{at: time.Duration(at), returned: time.Duration(returned), variant: variant, status: status, id: id}
	c.body[0] = byte(len(id))
	return c
}

func withCode(c call, code string) call {
	c.code = code
	return c
}

func replayed(c call) call {
	c.replayed = true
	return c
}

func TestKeyHistories(t *testing.T) {
	t.Parallel()
	replay := replayed(said(5, 6, 0, 201, "a"))
	otherBytes := said(5, 6, 0, 201, "a")
	otherBytes.body[1] = 1
	for name, c := range map[string]struct {
		calls []call
		holds bool
	}{
		"answer and replay":                  {[]call{said(1, 2, 0, 201, "a"), replay}, true},
		"replay of nothing":                  {[]call{replay}, false},
		"replay of what nobody answered":     {[]call{said(1, 2, 0, 0, ""), replay}, true},
		"replay before what nobody answered": {[]call{replay, said(7, 8, 0, 0, "")}, false},
		"two orders":                         {[]call{said(1, 2, 0, 201, "a"), said(3, 4, 0, 201, "bb")}, false},
		"two orders at once":                 {[]call{said(1, 4, 0, 201, "a"), said(2, 3, 0, 201, "bb")}, false},
		"other bytes":                        {[]call{said(1, 2, 0, 201, "a"), otherBytes}, false},
		"other meaning refused":              {[]call{said(1, 2, 0, 201, "a"), said(3, 4, 1, 422, "")}, true},
		"other meaning accepted":             {[]call{said(1, 2, 0, 201, "a"), said(3, 4, 1, 201, "a")}, false},
		"same meaning called another":        {[]call{said(1, 2, 0, 201, "a"), said(3, 4, 0, 422, "")}, false},
		"refused for what nobody answered":   {[]call{said(1, 2, 1, 503, ""), said(3, 4, 0, 422, "")}, true},
		"out of stock, then placed": {[]call{withCode(said(1, 2, 0, 409, ""), "out_of_stock"),
			said(3, 4, 0, 201, "a")}, true},
		"placed, then out of stock": {[]call{said(1, 2, 0, 201, "a"),
			withCode(said(3, 4, 0, 409, ""), "out_of_stock")}, false},
		"placed while another call is told to wait": {[]call{said(1, 4, 0, 201, "a"),
			withCode(said(2, 3, 0, 409, ""), "request_in_progress")}, true},
		"told how far the first call is": {[]call{said(1, 4, 0, 201, "a"),
			replayed(said(2, 3, 0, 202, "a"))}, true},
		"told of a call that has not begun": {[]call{replayed(said(1, 2, 0, 202, "a")),
			said(3, 4, 0, 201, "a")}, false},
		"told of another call's row": {[]call{said(1, 4, 0, 201, "a"),
			replayed(said(2, 3, 0, 202, "bb"))}, false},
		"unknown, then final":      {[]call{said(1, 2, 0, 202, "a"), said(3, 4, 0, 201, "a")}, true},
		"final, then unknown":      {[]call{said(1, 2, 0, 201, "a"), said(3, 4, 0, 202, "a")}, false},
		"declined, then succeeded": {[]call{said(1, 2, 0, 402, "a"), said(3, 4, 0, 201, "a")}, false},
	} {
		if holds, ok := linearizable(c.calls); holds != c.holds || !ok {
			t.Errorf("%s: holds %v, decided %v; want %v", name, holds, ok, c.holds)
		}
	}
}

func TestScheduleFollowsItsSeed(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff(schedule(1, long, kinds), schedule(1, long, kinds)); diff != "" {
		t.Errorf("the same seed made another schedule: %s", diff)
	}
	if cmp.Equal(schedule(1, long, kinds), schedule(2, long, kinds)) {
		t.Error("another seed made the same schedule")
	}
}

// BugSeed and BugDuration are those of the runs that must find the planted bugs.
const (
	BugSeed     = 32
	BugDuration = 35 * time.Second
)

// A seed draws other faults when kinds are added. The runs with planted bugs need some of them.
func TestBugsMeetTheirFaults(t *testing.T) {
	t.Parallel()
	met := map[string]bool{}
	for _, f := range schedule(BugSeed, BugDuration, kinds) {
		met[f.Kind] = true
	}
	for _, kind := range []string{"postgres.cut-commit", "postgres.terminate", "provider.reset", "redis.flush"} {
		if !met[kind] {
			t.Errorf("seed %d makes no %s within %s: take another seed", BugSeed, kind, BugDuration)
		}
	}
}

func TestScheduleHoldsEveryKind(t *testing.T) {
	t.Parallel()
	for duration, seeds := range map[time.Duration]uint64{demanding: 2000, 2 * demanding: 500, long: 100} {
		for seed := range seeds {
			times := map[string]int{}
			for _, f := range schedule(seed, duration, kinds) {
				times[f.Kind]++
				if f.For <= 0 || f.At+f.For+lull > duration {
					t.Errorf("seed %d, %v: %+v does not end in time", seed, duration, f)
				}
			}
			for _, k := range kinds {
				if times[k.name] < leastFaults(duration) {
					t.Errorf("seed %d: %s happens %d times in %v, want %d",
						seed, k.name, times[k.name], duration, leastFaults(duration))
				}
			}
		}
	}
}

func TestCommitsAreRecognized(t *testing.T) {
	t.Parallel()
	line := (*commitCutter)(nil).NewState().(*prepared) //nolint:forcetypeassert // see NewState
	for _, c := range []struct {
		sent    string
		commits bool
	}{
		{"Q\x00\x00\x00\x0abegin\x00", false},
		{"Q\x00\x00\x00\x0bcommit\x00", true},
		{"P\x00\x00\x00\x20stmtcache_ab12\x00COMMIT\x00\x00\x00", false},
		{"B\x00\x00\x00\x20\x00stmtcache_ab12\x00\x00\x00", true},
		{"B\x00\x00\x00\x20\x00stmtcache_cd34\x00\x00\x00", false},
	} {
		if got := line.commits([]byte(c.sent)); got != c.commits {
			t.Errorf("%q: %v, want %v", c.sent, got, c.commits)
		}
	}
}

func TestCutCommits(t *testing.T) {
	t.Parallel()
	for _, drops := range []bool{false, true} {
		in, out := make(chan *stream.StreamChunk, 1), make(chan *stream.StreamChunk, 1)
		line := toxics.NewToxicStub(in, out)
		line.State = &prepared{names: [][]byte{[]byte("commit\x00")}, drops: drops}
		in <- &stream.StreamChunk{Data: []byte("Q\x00\x00\x00\x0bcommit\x00")}
		(*commitCutter)(nil).Pipe(line)
		if _, arrived := <-out; arrived == drops || !line.Closed() {
			t.Errorf("drops %v: the COMMIT arrived: %v, the line is closed: %v", drops, arrived, line.Closed())
		}
	}
}
