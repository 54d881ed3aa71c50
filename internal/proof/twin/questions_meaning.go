package twin

import (
	"bytes"
	"context"
	"net/http"
)

var meaningQuestions = []question{
	{"other-meaning", "the same key with another body",
		"Keep a fingerprint of the request beside the key, and refuse a request with another one. The client has a " +
			"bug, and a replay would hide it.",
		askMeaning},
	{"other-spelling", "the same JSON with other white space, order of members and escapes",
		"Take the fingerprint of the decoded request, not of its bytes: a client may encode a retry in another way.",
		func(ctx context.Context, r *run) (seen, error) {
			return askSpelling(ctx, r, "the body is no JSON object", func(body []byte) []byte {
				v, err := parseJSON(body)
				if err != nil {
					return nil
				}
				return v.respelled()
			})
		}},
	{"other-number", "the same JSON with 1.0 for 1",
		"Compare numbers by their value.",
		func(ctx context.Context, r *run) (seen, error) {
			return askSpelling(ctx, r, "the body has no whole number", withFraction)
		}},
	{"other-order", "the same JSON with the elements of a list in reverse order",
		"Treat a list in another order as another request, unless the order means nothing in all your lists.",
		func(ctx context.Context, r *run) (seen, error) {
			return askSpelling(ctx, r, "the body has no list of different elements", func(body []byte) []byte {
				v, err := parseJSON(body)
				if err != nil || !v.reverseList() {
					return nil
				}
				return []byte(v.plain())
			})
		}},
	{"null-member", "the same JSON with one more member, which is null",
		"Decide whether null means the same as a member that is absent, and write it down.",
		func(ctx context.Context, r *run) (seen, error) {
			return askSpelling(ctx, r, "the body is no JSON object", func(body []byte) []byte {
				if _, err := parseJSON(body); err != nil {
					return nil
				}
				return withNull(body, r.NullMember)
			})
		}},
	{"other-customer", "the same request of another customer, with the same key",
		"Make the customer a part of the key in the store. Keys are no secrets, and an answer is its customer's alone.",
		askCustomer},
}

func askMeaning(ctx context.Context, r *run) (seen, error) {
	i := r.intent()
	other := i
	switch other.body = r.intent().body; {
	case r.OtherBody != "":
		other.body = render(r.OtherBody, r.name+"-other")
	case bytes.Equal(i.body, other.body):
		return skip("the body is always the same: give --other-body, or put {{unique}} into the body")
	}
	first := r.send(ctx, 0, i)
	second := r.send(ctx, 0, other)
	third := r.settle(ctx, i)
	s := seen{outcome: refusal(second), got: inTurn(first, second, third), answers: []answer{first, second, third},
		want: 1, judged: second}
	switch kept := compare(first, third); {
	case second.done() && compare(first, second) == same || second.done() && second.id != "" && second.id == first.id:
		s.outcome = swallowed
	case second.done():
		s.outcome = again
	case kept != same && kept != sameJSON:
		s.outcome = different
	}
	return s, nil
}

// askSpelling sends a request and then its twin in another spelling.
func askSpelling(ctx context.Context, r *run, without string, respell func([]byte) []byte) (seen, error) {
	i := r.intent()
	other := i
	if other.body = respell(i.body); other.body == nil {
		return skip(without)
	}
	first := r.send(ctx, 0, i)
	second := r.settleRefused(ctx, other)
	return seen{outcome: compare(first, second), got: inTurn(first, second), answers: []answer{first, second}, want: 1,
		judged: second}, nil
}

// settleRefused is settle for a request that may be refused with 409 for good.
func (r *run) settleRefused(ctx context.Context, i intent) answer {
	a := r.send(ctx, 0, i)
	if a.err != nil || a.status >= http.StatusInternalServerError {
		return r.settle(ctx, i)
	}
	return a
}

func askCustomer(ctx context.Context, r *run) (seen, error) {
	if r.OtherHeader == nil {
		return skip("give --other-header, such as another customer's Authorization")
	}
	i := r.intent()
	other := i
	other.header = i.header.Clone()
	for name, values := range r.OtherHeader {
		if other.header == nil {
			other.header = http.Header{}
		}
		other.header[name] = values
	}
	first := r.send(ctx, 0, i)
	second := r.send(ctx, 0, other)
	s := seen{outcome: own, got: inTurn(first, second), answers: []answer{first, second}, want: 2, judged: second}
	switch {
	case !second.done():
		s.outcome, s.want = refusal(second), 1
	case second.id != "" && second.id == first.id:
		s.outcome, s.leaked = swallowed, true
	}
	return s, nil
}
