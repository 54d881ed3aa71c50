package twin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
)

const twinsAdvice = "Let the database decide: a UNIQUE key that is inserted in the transaction of the effect. " +
	"Looking first and writing later leaves a gap between both."

var raceQuestions = []question{
	{"twins", "many twins at the same instant", twinsAdvice, func(ctx context.Context, r *run) (seen, error) {
		return askTwins(ctx, r, 1)
	}},
	{"twins-two-nodes", "many twins at the same instant, on two nodes",
		"Keep the keys where all nodes see them. A lock or a cache in one process does not guard the others.",
		func(ctx context.Context, r *run) (seen, error) {
			if len(r.nodes) < 2 {
				return skip("give --also, the address of a second node")
			}
			return askTwins(ctx, r, 2)
		}},
	{"in-flight", "a twin while the first one runs",
		"Answer 409 with Retry-After, or wait for the first one's result. A 5xx makes clients give up on what is done.",
		askInFlight},
}

// askTwins sends twins through a gate: all have their goroutine before the first is sent.
func askTwins(ctx context.Context, r *run, nodes int) (seen, error) {
	i := r.intent()
	answers := make([]answer, r.Concurrency)
	gate := make(chan struct{})
	var group sync.WaitGroup
	for n := range answers {
		group.Go(func() {
			<-gate
			answers[n] = r.send(ctx, n%nodes, i)
		})
	}
	close(gate)
	group.Wait()
	s := seen{outcome: one, got: tally(answers), want: 1}
	final := r.settle(ctx, i)
	s.judged, s.answers = final, slices.Concat(answers, []answer{final})
	if !final.done() {
		s.outcome, s.got = never, s.got+", at last "+final.String()
		return s, nil
	}
	for _, a := range answers {
		if how := compare(a, final); a.done() && how != same && how != sameJSON {
			s.outcome = several
		}
	}
	for _, a := range answers {
		if s.outcome == one && !a.done() && a.status != http.StatusConflict && a.status != http.StatusTooEarly {
			s.outcome = failures
		}
	}
	return s, nil
}

// askInFlight sends a twin as soon as the first request is on its way, a few times.
func askInFlight(ctx context.Context, r *run) (seen, error) {
	const rounds = 5
	s := seen{outcome: waited, want: rounds}
	var twins []answer
	for range rounds {
		i := r.intent()
		first := r.start(ctx, i)
		twin := r.send(ctx, 0, i)
		a, last := <-first, r.settle(ctx, i)
		s.answers, twins = append(s.answers, a, twin, last), append(twins, twin)
		switch how := compare(last, twin); {
		case twin.status == http.StatusConflict || twin.status == http.StatusTooEarly:
			if s.outcome == waited {
				s.outcome, s.judged = conflict, twin
			}
		case !twin.done():
			s.outcome = failures
		case how != same && how != sameJSON:
			s.outcome = several
		}
	}
	s.got = tally(twins)
	if s.outcome == conflict {
		s.got += fmt.Sprintf(" (Retry-After: %q)", s.judged.header.Get("Retry-After"))
	}
	return s, nil
}

// start sends a request and returns when all of it is written.
func (r *run) start(ctx context.Context, i intent) <-chan answer {
	written, answered := make(chan struct{}), make(chan answer, 1)
	i.sent = sync.OnceFunc(func() { close(written) })
	go func() {
		a := r.send(ctx, 0, i)
		i.sent() // also if it could not be sent
		answered <- a
	}()
	<-written
	return answered
}
