package twin

import (
	"context"
	"strings"
)

var keyQuestions = []question{
	{"key-missing", "a request without a key",
		"Require the key on every call that has an effect, and answer 400 without one: a client that forgets it " +
			"repeats its effects.",
		func(ctx context.Context, r *run) (seen, error) {
			i := r.intent()
			return whether(r.send(ctx, 0, intent{body: i.body, header: i.header}))
		}},
	{"key-empty", "an empty key",
		"Treat an empty key as none. Otherwise all clients with a bug share one key.",
		func(ctx context.Context, r *run) (seen, error) { return whether(r.sendRaw(ctx, r.intent(), "")) }},
	{"key-quoted", `"KEY" in quotes, again, and then KEY without quotes`,
		"Read the header as a structured-field string (RFC 9651): the quotes are no part of the key.", askQuoted},
	{"key-255", "a key of 255 characters, twice",
		"Take keys of up to 255 characters. Clients compose them of ids.", askLong},
	{"key-256", "two keys of 256 characters that differ in the last one",
		"Refuse a key that is too long. Never cut it off: two keys would become one.", askTooLong},
	{"key-control", "a key with a control character",
		"Refuse everything but visible ASCII characters. Keys end up in logs, caches and file names.",
		func(ctx context.Context, r *run) (seen, error) {
			i := r.intent()
			return whether(r.sendRaw(ctx, i, i.key+"\x01"))
		}},
	{"key-twice", "two key headers in one request",
		"Refuse a request with two keys: taking one of them, or both joined, is a guess.",
		func(ctx context.Context, r *run) (seen, error) {
			i := r.intent()
			return whether(r.sendRaw(ctx, i, i.key, i.key+"-b"))
		}},
}

// whether is the result of a single request that may be refused.
func whether(a answer) (seen, error) {
	s := seen{outcome: accepted, got: a.withCode(), answers: []answer{a}, want: 1, judged: a}
	if !a.done() {
		s.outcome, s.want = refusal(a), 0
	}
	return s, nil
}

func askQuoted(ctx context.Context, r *run) (seen, error) {
	bare := r.intent()
	quoted := bare
	quoted.key = `"` + bare.key + `"`
	first := r.send(ctx, 0, quoted)
	if !first.done() {
		return whether(first)
	}
	second, third := r.settle(ctx, quoted), r.settle(ctx, bare)
	s := seen{outcome: quotedKey, got: inTurn(first, second, third), answers: []answer{first, second, third}, want: 1,
		judged: third}
	switch {
	case third.done() && third.id != "" && third.id == first.id:
		s.outcome = oneKey
	case third.done() && third.id != "":
		s.want = 2
	case third.done(): // without an id, both look the same
		s.most = 2
	}
	return s, nil
}

func askLong(ctx context.Context, r *run) (seen, error) {
	i := r.intent()
	i.key += strings.Repeat("x", 255-len(i.key))
	first := r.send(ctx, 0, i)
	if !first.done() {
		return whether(first)
	}
	second := r.settle(ctx, i)
	return seen{outcome: compare(first, second), got: inTurn(first, second), answers: []answer{first, second}, want: 1,
		judged: second}, nil
}

func askTooLong(ctx context.Context, r *run) (seen, error) {
	a, b := r.intent(), r.intent()
	a.key += strings.Repeat("x", 255-len(a.key))
	a.key, b.key = a.key+"a", a.key+"b"
	first := r.send(ctx, 0, a)
	if !first.done() {
		return whether(first)
	}
	second := r.send(ctx, 0, b)
	s := seen{outcome: apart, got: inTurn(first, second), answers: []answer{first, second}, want: 2, judged: second}
	switch {
	case !second.done():
		s.outcome, s.want = refusal(second), 1
	case second.id != "" && second.id == first.id:
		s.outcome = swallowed
	}
	return s, nil
}
