package dedup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func newSeen(t *testing.T, size int, ttl time.Duration) *dedup.Seen {
	t.Helper()
	seen := dedup.NewSeen(size, ttl)
	t.Cleanup(seen.Close)
	return seen
}

func newReplays(t *testing.T, maxBytes uint64, ttl time.Duration) *dedup.Replays {
	t.Helper()
	replays := dedup.NewReplays(maxBytes, ttl)
	t.Cleanup(replays.Close)
	return replays
}

// pass lets time pass in a synctest bubble.
func pass(d time.Duration) { <-time.After(d) }

func TestSeenHasOneFirst(t *testing.T) {
	t.Parallel()
	const keys, callers = 5000, 2
	seen := newSeen(t, 10*keys, time.Hour)
	var arrived atomic.Int64
	firsts := shoptest.Race(callers, func(int) (first [keys]bool) {
		for key := range keys {
			// All callers meet before each key, as one gate in front of all keys would let them
			// drift apart.
			for arrived.Add(1); arrived.Load() < int64(callers*(key+1)); {
				runtime.Gosched()
			}
			first[key] = seen.First(strconv.Itoa(key))
		}
		return first
	})
	for key := range keys {
		winners := 0
		for _, first := range firsts {
			if first[key] {
				winners++
			}
		}
		if winners != 1 {
			t.Errorf("key %d had %d firsts", key, winners)
		}
	}
}

func TestSeenForgets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const ttl = time.Minute
		seen := newSeen(t, 10, ttl)
		for _, key := range []string{"kept", "taken back"} {
			if !seen.First(key) || seen.First(key) {
				t.Errorf("%q is not seen once", key)
			}
		}
		seen.Forget("taken back")
		if !seen.First("taken back") {
			t.Error("a key that was taken back is still there")
		}
		pass(ttl / 2)
		if seen.First("kept") {
			t.Error("forgotten at half of its time")
		}
		pass(ttl/2 + time.Second)
		if !seen.First("kept") {
			t.Error("still there after its time; being asked for must not prolong it")
		}
	})
}

func TestSeenIsBounded(t *testing.T) {
	t.Parallel()
	const size = 100
	seen := newSeen(t, size, time.Hour)
	for key := range 50 * size {
		seen.First(fmt.Sprint(key))
	}
	if got := seen.Size(); got > size || got < size/2 {
		t.Errorf("%d keys are held, want about %d", got, size)
	}
}

// request returns the id of a request with the key and the meaning.
func request(key dedup.Key, meaning any) dedup.RequestID {
	return dedup.RequestIDOf("place", uuid.Nil, key, dedup.FingerprintOf(meaning))
}

// counter is a run that counts its calls and returns a fixed answer.
type counter struct {
	runs   atomic.Int64
	answer dedup.Answer
	err    error
}

func (c *counter) run(context.Context) (dedup.Answer, error) {
	c.runs.Add(1)
	return c.answer, c.err
}

func final(body string) dedup.Answer {
	return dedup.Answer{ID: uuid.New(), Status: 201, Body: []byte(body), Final: true}
}

func TestRequestsDifferByEachPart(t *testing.T) {
	t.Parallel()
	alice, bob := uuid.New(), uuid.New()
	mug, cup := dedup.FingerprintOf("mug"), dedup.FingerprintOf("cup")
	ids := map[dedup.RequestID]bool{
		dedup.RequestIDOf("place", alice, "key", mug):  true,
		dedup.RequestIDOf("cancel", alice, "key", mug): true,
		dedup.RequestIDOf("place", bob, "key", mug):    true,
		dedup.RequestIDOf("place", alice, "kez", mug):  true,
		dedup.RequestIDOf("place", alice, "key", cup):  true,
		dedup.RequestIDOf("plac", alice, "ekey", mug):  true,
	}
	if len(ids) != 6 {
		t.Errorf("6 requests have %d ids", len(ids))
	}
	if !ids[dedup.RequestIDOf("place", alice, "key", mug)] {
		t.Error("the same request has two ids")
	}
}

func TestReplaysRunTwinsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		replays := newReplays(t, 1<<20, time.Hour)
		answer, gate := final(`{"id":"1"}`), make(chan struct{})
		var runs atomic.Int64
		go func() {
			synctest.Wait() // until every twin waits for the one run
			close(gate)
		}()
		answers := shoptest.Race(100, func(int) dedup.Answer {
			got, err := replays.Do(t.Context(), request("k", "mug"), func(context.Context) (dedup.Answer, error) {
				runs.Add(1)
				<-gate
				return answer, nil
			})
			if err != nil {
				t.Error(err)
			}
			return got
		})
		firsts := 0
		for _, got := range answers {
			if !got.Replayed {
				firsts++
			}
			if !bytes.Equal(got.Body, answer.Body) || got.Status != answer.Status || got.ID != answer.ID {
				t.Fatalf("a twin got %+v, want %+v", got, answer)
			}
		}
		if runs.Load() != 1 || firsts != 1 {
			t.Errorf("%d runs and %d answers not marked as replayed, want one of each", runs.Load(), firsts)
		}
	})
}

func TestReplaysRemember(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	momentary := dedup.Answer{Status: 202, Body: []byte("pending")}
	for name, test := range map[string]struct {
		answer dedup.Answer
		err    error
		runs   int64
	}{
		"a final answer":        {answer: final("done"), runs: 1},
		"no answer of a moment": {answer: momentary, runs: 2},
		"no error":              {err: boom, runs: 2},
		"no answer beside one":  {answer: final("done"), err: boom, runs: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			replays, c := newReplays(t, 1<<20, time.Hour), &counter{answer: test.answer, err: test.err}
			for _, again := range []bool{false, true} {
				want := test.answer
				if again && test.runs == 1 {
					want.Replayed, want.StoppedBy = true, dedup.ByMemory
				}
				got, err := replays.Do(t.Context(), request("k", "mug"), c.run)
				if !errors.Is(err, test.err) || !reflect.DeepEqual(got, want) {
					t.Errorf("got %+v, %v; want %+v, %v", got, err, want, test.err)
				}
			}
			if c.runs.Load() != test.runs {
				t.Errorf("%d runs, want %d", c.runs.Load(), test.runs)
			}
		})
	}
}

func TestReplaysKnowAnotherMeaning(t *testing.T) {
	t.Parallel()
	replays, c := newReplays(t, 1<<20, time.Hour), &counter{answer: final("mug")}
	if _, err := replays.Do(t.Context(), request("k", "mug"), c.run); err != nil {
		t.Fatal(err)
	}
	refuse := func(context.Context) (dedup.Answer, error) { return dedup.Answer{}, dedup.ErrKeyReused }
	if answer, err := replays.Do(t.Context(), request("k", "cup"), refuse); !errors.Is(err, dedup.ErrKeyReused) {
		t.Errorf("the key with another meaning got %+v, %v from memory", answer, err)
	}
}

func TestReplaysOutliveTheFirstClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		replays := newReplays(t, 1<<20, time.Hour)
		gate := make(chan struct{})
		run := func(ctx context.Context) (dedup.Answer, error) {
			<-gate
			return final("done"), ctx.Err()
		}
		first, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := replays.Do(first, request("k", "mug"), run)
			left <- err
		}()
		synctest.Wait()
		twin := make(chan dedup.Answer)
		go func() {
			answer, err := replays.Do(t.Context(), request("k", "mug"), run)
			if err != nil {
				t.Error(err)
			}
			twin <- answer
		}()
		synctest.Wait()
		leave()
		select {
		case err := <-left:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the client that left got %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the client that left is kept waiting")
		}
		close(gate)
		if answer := <-twin; string(answer.Body) != "done" || !answer.Replayed {
			t.Errorf("the twin got %+v", answer)
		}
		late := &counter{}
		answer, err := replays.Do(t.Context(), request("k", "mug"), late.run)
		if err != nil || string(answer.Body) != "done" || late.runs.Load() != 0 {
			t.Errorf("afterwards: %+v, %v, %d runs; want the remembered answer", answer, err, late.runs.Load())
		}
	})
}

func TestReplaysSurviveAPanic(t *testing.T) {
	t.Parallel()
	replays := newReplays(t, 1<<20, time.Hour)
	_, err := replays.Do(t.Context(), request("k", "mug"), func(context.Context) (dedup.Answer, error) {
		panic("no such thing")
	})
	if err == nil || !strings.Contains(err.Error(), "no such thing") ||
		!strings.Contains(err.Error(), "memory_test.go") {
		t.Errorf("the panic became %v, want an error with its message and stack", err)
	}
	c := &counter{answer: final("done")}
	answer, err := replays.Do(t.Context(), request("k", "mug"), c.run)
	if err != nil || answer.Replayed || c.runs.Load() != 1 {
		t.Errorf("the next call: %+v, %v after %d runs; want a run of its own", answer, err, c.runs.Load())
	}
}

func TestNoReplays(t *testing.T) {
	t.Parallel()
	var none *dedup.Replays
	c := &counter{answer: final("done")}
	for range 2 {
		answer, err := none.Do(t.Context(), request("k", "mug"), c.run)
		if err != nil || !reflect.DeepEqual(answer, c.answer) {
			t.Errorf("got %+v, %v; want the run's answer as it is", answer, err)
		}
	}
	if c.runs.Load() != 2 {
		t.Errorf("%d runs, want 2", c.runs.Load())
	}
}

func TestReplaysForget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const ttl = time.Minute
		replays, c := newReplays(t, 1<<20, ttl), &counter{answer: final("done")}
		for _, want := range []int64{1, 1, 2} {
			if _, err := replays.Do(t.Context(), request("k", "mug"), c.run); err != nil || c.runs.Load() != want {
				t.Errorf("%v after %d runs, want %d", err, c.runs.Load(), want)
			}
			pass(ttl * 2 / 3)
		}
	})
}

func TestReplaysAreBounded(t *testing.T) {
	t.Parallel()
	const maxBytes, body = 64 << 10, 1 << 10
	replays, c := newReplays(t, maxBytes, time.Hour), &counter{answer: final(strings.Repeat("b", body))}
	for i := range 500 {
		if _, err := replays.Do(t.Context(), request("k", i), c.run); err != nil {
			t.Fatal(err)
		}
	}
	if held := replays.Weight(); held > maxBytes || held < maxBytes/2 {
		t.Errorf("answers of %d bytes are held, want about %d", held, maxBytes)
	}
}

// Answers of another era are not used, whether they were kept before it or by a request that began
// before.
func TestReplaysEra(t *testing.T) {
	t.Parallel()
	replays := newReplays(t, 1<<20, time.Hour)
	c := &counter{answer: final("mug")}
	ask := func(wantRuns int64, era string) {
		t.Helper()
		if _, err := replays.Do(t.Context(), request("k", "mug"), c.run); err != nil || c.runs.Load() != wantRuns {
			t.Errorf("%s: %d runs, %v; want %d", era, c.runs.Load(), err, wantRuns)
		}
	}
	ask(1, "the first era")
	ask(1, "the first era")
	replays.SetEra(1)
	_, err := replays.Do(t.Context(), request("k", "mug"), func(ctx context.Context) (dedup.Answer, error) {
		replays.SetEra(2)
		return c.run(ctx)
	})
	if err != nil {
		t.Error(err)
	}
	ask(3, "the third era")
	ask(3, "the third era")
	replays.SetEra(dedup.Unsure)
	ask(4, "unsure")
	ask(5, "unsure")
}
