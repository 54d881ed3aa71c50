package torture

import (
	"crypto/sha256"
	"fmt"
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

// keyState is what the shop may know of one key. The zero value is a key that nothing happened
// under.
type keyState struct {
	bound   bool
	variant int
	id      string // "" while only unanswered calls can have bound it
	final   bool
	status  int
	body    [sha256.Size]byte
}

// keyModel says which answers one key may give, one call after the other. A call that nobody
// answered binds the key or, when it is the last of all, makes no difference: its end is unknown,
// so it may be the last.
var keyModel = porcupine.Model{
	Init: func() any { return keyState{} },
	Step: func(state, input, output any) (bool, any) {
		return step(state.(keyState), input.(int), output.(call)) //nolint:forcetypeassert // see operations
	},
	DescribeOperation: func(input, output any) string {
		return fmt.Sprintf("variant %v: %s", input,
			answerKind(output.(call)))
	}, //nolint:forcetypeassert // see operations
}

func step(s keyState, variant int, c call) (bool, keyState) {
	switch {
	case c.ambiguous():
		if !s.bound {
			s = keyState{bound: true, variant: variant}
		}
		return true, s
	case c.bound():
		if s.bound && (s.variant != variant || s.id != "" && s.id != c.id) {
			return false, s
		}
		if c.replayed && !s.bound {
			return false, s
		}
		if s.final && (!c.final() || s.status != c.status || s.body != c.body) {
			return false, s
		}
		next := keyState{bound: true, variant: variant, id: c.id}
		if c.final() {
			next.final, next.status, next.body = true, c.status, c.body
		}
		return true, next
	case c.status == 422:
		return s.bound && s.variant != variant, s
	case c.code == "request_in_progress" || c.status == 429:
		return true, s
	default: // refused, which leaves the key unused
		return !s.bound, s
	}
}

// operations are the calls under a key, as Porcupine wants them. Of unanswered calls with one
// meaning only the first matters: whatever a later one could have done, it could have. A call that
// was not replayed stands for two: it binds the key, and at its end it has the answer. Between the
// two, another call can be told with 202 how far it is.
func operations(calls []call) []porcupine.Operation {
	var all []porcupine.Operation
	unanswered := map[int]int{}
	for _, c := range calls {
		op := porcupine.Operation{ClientId: c.client, Input: c.variant, Output: c, Call: int64(c.at),
			Return: int64(c.returned)}
		if c.ambiguous() {
			op.Return = math.MaxInt64
			if at, ok := unanswered[c.variant]; ok {
				if all[at].Call > op.Call {
					all[at] = op
				}
				continue
			}
			unanswered[c.variant] = len(all)
		}
		all = append(all, op)
		if c.bound() && !c.replayed {
			op.Output = call{client: c.client, at: c.at, returned: c.returned, variant: c.variant}
			all = append(all, op)
		}
	}
	return all
}

// mostThought is what Porcupine gets for one key.
const mostThought = 10 * time.Second

// linearizable checks that the calls under a key can have happened one after the other. It is not
// ok to decide when that takes too long.
func linearizable(calls []call) (holds, ok bool) {
	result := porcupine.CheckOperationsTimeout(keyModel, operations(calls), mostThought)
	return result != porcupine.Illegal, result != porcupine.Unknown
}
