package twin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// question is one thing to ask the service.
type question struct {
	id     string
	sent   string
	advice string
	ask    func(context.Context, *run) (seen, error)
}

// questions are asked in this order.
var questions = slices.Concat(keyQuestions, replayQuestions, meaningQuestions, raceQuestions, faultQuestions)

// outcome is one of the ways in which a service may answer a question.
type outcome string

const (
	refused400 outcome = "refused with 400"
	refused409 outcome = "refused with 409"
	refused422 outcome = "refused with 422"
	refused    outcome = "refused with another status"
	accepted   outcome = "accepted"
	same       outcome = "the same answer"
	sameJSON   outcome = "the same JSON in other bytes"
	different  outcome = "another answer"
	marked     outcome = "marked as a replay"
	unmarked   outcome = "not marked as a replay"
	oneKey     outcome = "quoted and bare are one key"
	quotedKey  outcome = "the quoted key works"
	apart      outcome = "kept apart"
	swallowed  outcome = "the answer of the other one"
	own        outcome = "an effect of its own"
	again      outcome = "done again"
	one        outcome = "one result for all"
	failures   outcome = "failures among the answers"
	several    outcome = "several results"
	conflict   outcome = "409 while the first runs"
	waited     outcome = "the first one's answer"
	free       outcome = "the key is free"
	bound      outcome = "the key is bound to the error"
	never      outcome = "no result at all"
	nothing    outcome = "nothing more"
)

// seen is what a question found.
type seen struct {
	outcome outcome
	// got describes the answers.
	got string
	// answers are all that may name an effect. Want is how many effects there should be.
	answers []answer
	want    int
	// most is how many effects are right too. Zero means no more than want.
	most int
	// since is what the witness held before, if the question is about more than itself.
	since *int
	// judged is the answer whose details a rule may look at.
	judged answer
	// leaked is set if a customer got the answer of another one.
	leaked bool
	// unanswered is set if effects may have had no answer, so that their ids are not known.
	unanswered bool
	// skipped is the reason why the question was not asked.
	skipped string
}

func skip(reason string) (seen, error) { return seen{skipped: reason}, nil }

// skipAfter skips a question because of the first answer to it.
func skipAfter(first answer, to string) (seen, error) {
	s := seen{skipped: "the service answers " + first.String() + " to " + to}
	if first.done() {
		s.want = 1
	}
	return s, nil
}

// ask asks a question and judges what it found.
func (r *run) ask(ctx context.Context, q question) (Line, error) {
	line := Line{Question: q.id, Sent: q.sent, Advice: q.advice}
	line.Expected, line.Rule = r.Rules.expected(q.id)
	before := 0
	if r.Count != nil {
		var err error
		if before, err = r.Count(ctx); err != nil {
			return line, err
		}
	}
	s, err := q.ask(ctx, r)
	if err != nil {
		return line, err
	}
	if s.skipped != "" {
		line.Verdict, line.Got = NotAsked, s.skipped
		// What was sent before the question was dropped may have had its effect.
		_, err := r.effects(ctx, before, s.want, nil)
		return line, err
	}
	if s.since != nil {
		before = *s.since
	}
	if line.Effects, err = r.effects(ctx, before, s.want, s.answers); err != nil {
		return line, err
	}
	line.Outcome, line.Got, line.Want = string(s.outcome), s.got, s.want
	if s.unanswered && r.Count == nil {
		line.Got += " (effects whose answers got lost are seen with --count only)"
	}
	line.Verdict = r.Rules.judge(q.id, s)
	if line.Verdict == Differs {
		line.Advice = cmp.Or(r.Rules.advice(q.id, s.outcome), q.advice)
	}
	switch {
	case s.leaked:
		line.Verdict = Leaked
	case line.Effects > max(s.want, s.most):
		line.Verdict = Twice
	case line.Effects < line.Want:
		line.Verdict = Lost
	}
	return line, nil
}

// refusal returns the outcome of an answer that is no success.
func refusal(a answer) outcome {
	switch a.status {
	case 400:
		return refused400
	case 409:
		return refused409
	case 422:
		return refused422
	default:
		return refused
	}
}

// compare returns how the answer to a repeated request compares with the first one.
func compare(first, replay answer) outcome {
	var was, is any
	switch {
	case !replay.done():
		return refusal(replay)
	case first.status != replay.status:
		return different
	case bytes.Equal(first.body, replay.body):
		return same
	case json.Unmarshal(first.body, &was) == nil && json.Unmarshal(replay.body, &is) == nil &&
		reflect.DeepEqual(was, is):
		return sameJSON
	default:
		return different
	}
}

// inTurn describes answers in the order in which they came.
func inTurn(answers ...answer) string {
	texts := make([]string, len(answers))
	for n, a := range answers {
		texts[n] = a.String()
	}
	return strings.Join(texts, ", then ")
}

// tally describes answers in any order, the most frequent first.
func tally(answers []answer) string {
	count := map[string]int{}
	for _, a := range answers {
		count[a.String()]++
	}
	var kinds []string
	for kind := range count {
		kinds = append(kinds, kind)
	}
	slices.SortFunc(kinds, func(a, b string) int {
		return cmp.Or(count[b]-count[a], strings.Compare(a, b))
	})
	for n, kind := range kinds {
		kinds[n] = fmt.Sprintf("%d × %s", count[kind], kind)
	}
	return strings.Join(kinds, ", ")
}
