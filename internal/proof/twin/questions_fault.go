package twin

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"time"
)

var faultQuestions = []question{
	{"client-gone", "a request whose client hangs up without reading the answer, then the same again",
		"Finish the work, or undo all of it, when the client has gone. The key is free only without the effect.",
		func(ctx context.Context, r *run) (seen, error) {
			return askGone(ctx, r, 1, 0, time.Millisecond, 5*time.Millisecond, 20*time.Millisecond)
		}},
	{"client-gone-early", "half of a request, then all of it",
		"Read the whole body before the key is used.",
		func(ctx context.Context, r *run) (seen, error) { return askGone(ctx, r, 0.5, time.Millisecond) }},
	{"after-4xx", "a body that is cut off, then the right one with the same key",
		"Do not bind a key to an error that changed nothing. The client mends the request and repeats it.",
		askAfter4xx},
	{"after-5xx", "a request that fails with 5xx before its effect, then the same again",
		"Do not keep a failure under the key: the retry is what the key is for.", askAfter5xx},
	{"restart-after", "a request, a restart, and the same request again",
		"Keep the keys on disk, with the effects. What is in memory is gone with the process.", askRestartAfter},
	{"restart-during", "a request, a restart before its answer, and the same request again, three times",
		"Write the key and the effect in one transaction. A key that is written first loses the effect, and one " +
			"that is written later doubles it.",
		askRestartDuring},
	{"replay-next-day", "the same request again, almost a day later",
		"Keep keys for a day at least. A client that was down, or a queue that was held, repeats its requests then.",
		func(ctx context.Context, r *run) (seen, error) {
			if r.Age == nil {
				return skip("give --age, which makes what the service holds almost a day older")
			}
			return askReplay(ctx, r, func() error { return r.Age(ctx) })
		}},
	{"whole-run", "all of the above",
		"Something took effect after its question was over: look for work in the background.",
		askWholeRun},
}

const noBody = "there is no body"

// askGone sends a part of a request and disconnects after each of the pauses.
func askGone(ctx context.Context, r *run, part float64, pauses ...time.Duration) (seen, error) {
	if part < 1 && r.Body == "" {
		return skip(noBody)
	}
	s := seen{outcome: one, want: len(pauses), unanswered: true}
	for _, after := range pauses {
		i := r.intent()
		if err := r.abandon(ctx, i, part, after); err != nil {
			return s, err
		}
		a := r.settle(ctx, i)
		if !a.done() {
			s.outcome = bound
		}
		s.answers = append(s.answers, a)
	}
	s.got, s.judged = tally(s.answers), s.answers[0]
	return s, nil
}

func askAfter4xx(ctx context.Context, r *run) (seen, error) {
	if !r.object {
		return skip("the body is no JSON object")
	}
	i := r.intent()
	broken := i
	broken.body = bytes.TrimRight(i.body, " \t\r\n}]")
	first := r.send(ctx, 0, broken)
	if first.done() || first.status < 400 || first.status >= 500 {
		return skipAfter(first, "a body that is cut off")
	}
	second := r.settleRefused(ctx, i)
	s := seen{outcome: free, got: inTurn(first, second), answers: []answer{second}, want: 1, judged: second}
	if !second.done() {
		s.outcome, s.want = bound, 0
	}
	return s, nil
}

func askAfter5xx(ctx context.Context, r *run) (seen, error) {
	if r.FailHeader == nil {
		return skip("give --fail-header, which makes the service fail")
	}
	i := r.intent()
	failing := i
	failing.header = i.header.Clone()
	maps.Copy(failing.header, r.FailHeader)
	first := r.send(ctx, 0, failing)
	if first.err == nil && first.status < 500 {
		return skipAfter(first, "--fail-header, and not 5xx")
	}
	second := r.settle(ctx, i)
	s := seen{outcome: free, got: inTurn(first, second), answers: []answer{second}, want: 1, judged: second}
	if !second.done() {
		s.outcome, s.want = bound, 0
	}
	return s, nil
}

const noRestart = "give --restart, which kills the service and starts it"

func askRestartAfter(ctx context.Context, r *run) (seen, error) {
	if r.Restart == nil {
		return skip(noRestart)
	}
	return askReplay(ctx, r, func() error { return r.Restart(ctx) })
}

// askRestartDuring kills the service once at the start of a request, and then as soon as the
// witness has seen the effect: each moment is the worst one for another kind of guard.
func askRestartDuring(ctx context.Context, r *run) (seen, error) {
	if r.Restart == nil {
		return skip(noRestart)
	}
	const rounds = 3
	s := seen{outcome: one, want: rounds, unanswered: true}
	var firsts, seconds []answer
	for round := range rounds {
		i := r.intent()
		first, err := r.cut(ctx, i, round > 0)
		if err != nil {
			return s, err
		}
		second := r.settle(ctx, i)
		firsts, seconds = append(firsts, first), append(seconds, second)
		s.judged = second
		if !second.done() {
			s.outcome = never
		}
	}
	s.answers = slices.Concat(firsts, seconds)
	s.got = tally(firsts) + ", then " + tally(seconds)
	return s, nil
}

// cut sends a request and restarts the service, at once or after the effect.
func (r *run) cut(ctx context.Context, i intent, afterEffect bool) (answer, error) {
	before := 0
	if afterEffect && r.Count != nil {
		var err error
		if before, err = r.Count(ctx); err != nil {
			return answer{}, err
		}
	}
	answered := r.start(ctx, i)
	if afterEffect {
		if err := r.awaitEffect(ctx, before, answered); err != nil {
			return answer{}, err
		}
	}
	if err := r.Restart(ctx); err != nil {
		return answer{}, err
	}
	return <-answered, nil
}

// awaitEffect returns when the witness has seen one more effect, the answer is there, or a while
// has passed. Without a witness it is a short while.
func (r *run) awaitEffect(ctx context.Context, before int, answered <-chan answer) error {
	if r.Count == nil {
		return pause(ctx, 20*time.Millisecond)
	}
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline) && len(answered) == 0; {
		now, err := r.Count(ctx)
		if err != nil || now > before {
			return err
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func askWholeRun(ctx context.Context, r *run) (seen, error) {
	if r.Count == nil {
		return skip("give --count, to see late effects")
	}
	return seen{outcome: nothing, got: "counted at the end", want: r.counted, since: &r.begun}, nil
}
