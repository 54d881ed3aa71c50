package twin

import "context"

const sameAdvice = "Store the status and the body of the first answer with the effect, in one transaction, and send " +
	"the stored bytes."

var replayQuestions = []question{
	{"replay", "the same request again", sameAdvice, func(ctx context.Context, r *run) (seen, error) {
		return askReplay(ctx, r, func() error { return nil })
	}},
	{"replay-header", "the same request again",
		"Say Idempotent-Replayed: true in a replayed answer, and only there: a client then knows that nothing " +
			"happened now.",
		askMark},
	{"replay-later", "the same request again, a second and five other requests later", sameAdvice,
		func(ctx context.Context, r *run) (seen, error) {
			var others []answer
			s, err := askReplay(ctx, r, func() error {
				for range 5 {
					others = append(others, r.settle(ctx, r.intent()))
				}
				return pause(ctx, replayPause)
			})
			for _, other := range others {
				if other.done() {
					s.want++
				}
			}
			s.answers = append(s.answers, others...)
			return s, err
		}},
}

// askReplay sends a request, does what is in between, and sends it again.
func askReplay(ctx context.Context, r *run, between func() error) (seen, error) {
	i := r.intent()
	first := r.send(ctx, 0, i)
	if err := between(); err != nil {
		return seen{}, err
	}
	second := r.settle(ctx, i)
	return seen{outcome: compare(first, second), got: inTurn(first, second), answers: []answer{first, second}, want: 1,
		judged: second}, nil
}

func askMark(ctx context.Context, r *run) (seen, error) {
	const header = "Idempotent-Replayed"
	i := r.intent()
	first := r.send(ctx, 0, i)
	second := r.settle(ctx, i)
	s := seen{outcome: unmarked, answers: []answer{first, second}, want: 1, judged: second}
	was, is := first.header.Get(header), second.header.Get(header)
	if was == "" && is == "true" {
		s.outcome = marked
	}
	switch {
	case was != "":
		s.got = "the first answer has " + header + ": " + was
	case is != "":
		s.got = header + ": " + is
	default:
		s.got = "no " + header
	}
	return s, nil
}
