package twin

import (
	"bytes"
	"maps"
	"slices"
	"strings"
)

// Rules are what a norm says.
type Rules struct {
	Name, Title string
	// Source is the document.
	Source string
	rules  map[string]rule
}

// rule is what a norm expects as the result of a question.
type rule struct {
	allowed []outcome
	text    string
	section string // of the source
	// code is what an error has to contain, and retryAfter whether a 409 needs this header.
	code       string
	retryAfter bool
}

func expect(text string, allowed ...outcome) rule { return rule{text: text, allowed: allowed} }

// in names the section.
func (r rule) in(section string) rule {
	r.section = section
	return r
}

// withCode makes an error need this code.
func (r rule) withCode(code string) rule {
	r.code = code
	return r
}

// withRetryAfter makes a 409 need the header.
func (r rule) withRetryAfter() rule {
	r.retryAfter = true
	return r
}

// expected returns the rule for a question, in words, and where it stands.
func (r Rules) expected(question string) (text, source string) {
	found, ok := r.rules[question]
	if !ok {
		return harmless, ""
	}
	return found.text, strings.TrimSpace(r.Source + " " + found.section)
}

// harmless is what is expected where a norm is silent.
const harmless = "anything without harm"

func (r Rules) judge(question string, s seen) Verdict {
	found, ok := r.rules[question]
	switch {
	case !ok:
		return NoRule
	case !slices.Contains(found.allowed, s.outcome),
		found.code != "" && s.judged.status >= 400 && !bytes.Contains(s.judged.body, []byte(`"`+found.code+`"`)),
		found.retryAfter && s.outcome == conflict && s.judged.header.Get("Retry-After") == "":
		return Differs
	default:
		return Passed
	}
}

// advice returns what to do about a refusal that is not the one of the norm. It returns "" if the
// question itself has the advice.
func (r Rules) advice(question string, got outcome) string {
	allowed := r.rules[question].allowed
	switch {
	case slices.Contains(allowed, got):
		return "Answer with the code and the headers of the norm, if clients look for them."
	case !slices.Contains(anyRefusal, got):
		return ""
	case slices.Contains(allowed, accepted):
		return "Nothing, if the key is required on purpose: that is the safer choice."
	case slices.ContainsFunc(allowed, func(o outcome) bool { return slices.Contains(anyRefusal, o) }):
		return "Answer with the status of the norm, if clients look at it."
	}
	return ""
}

// AllRules are the norms, by name.
func AllRules() []Rules { return []Rules{ietf, stripe, acp, shop} }

// FindRules returns the rules with the name.
func FindRules(name string) (Rules, bool) {
	for _, r := range AllRules() {
		if r.Name == name {
			return r, true
		}
	}
	return Rules{}, false
}

// anyRefusal are the outcomes of a request that had no effect.
var anyRefusal = []outcome{refused400, refused409, refused422, refused}

// promised are the rules that follow from the promise itself, which the norm makes in a section:
// one effect and one result per key.
func promised(section string, more map[string]rule) map[string]rule {
	oneResult := expect("one effect, and one result for all", one)
	rules := map[string]rule{
		"twins": oneResult, "twins-two-nodes": oneResult, "client-gone": oneResult, "client-gone-early": oneResult,
		"restart-during": oneResult,
		"restart-after":  expect("the first result", same, sameJSON),
		"whole-run":      expect("no late effect", nothing),
	}
	for question, r := range rules {
		rules[question] = r.in(section)
	}
	maps.Copy(rules, more)
	return rules
}

var (
	ietf = Rules{"ietf", "The Idempotency-Key HTTP Header Field, draft -07",
		"draft-ietf-httpapi-idempotency-key-header-07", promised("§2.6", map[string]rule{
			"key-missing":   expect("400", refused400).in("§2.7"),
			"key-empty":     expect("refused", anyRefusal...).in("§2.1"),
			"key-quoted":    expect("the quoted key works", oneKey, quotedKey).in("§2.1"),
			"key-control":   expect("refused", anyRefusal...).in("§2.1"),
			"key-twice":     expect("refused", anyRefusal...).in("§2.1"),
			"replay":        expect("the first result", same, sameJSON).in("§2.6"),
			"replay-later":  expect("the first result", same, sameJSON).in("§2.6"),
			"other-meaning": expect("422", refused422).in("§2.7"),
			"other-customer": expect("no answer of another client",
				own, refused400, refused409, refused422, refused).in("§5"),
			"in-flight": expect("409, or the first result after it", conflict, waited).in("§2.7"),
		})}

	stripe = Rules{"stripe", "Stripe API v1", "docs.stripe.com/api/idempotent_requests", promised("", map[string]rule{
		"key-missing":    expect("accepted: the key is optional", accepted),
		"key-255":        expect("works", same),
		"key-256":        expect("400", refused400),
		"replay":         expect("same status and body", same),
		"replay-header":  expect("Idempotent-Replayed: true", marked),
		"replay-later":   expect("same status and body", same),
		"other-meaning":  expect("400", refused400),
		"other-spelling": expect("the first result: parameters are compared", same, sameJSON),
		"other-customer": expect("an effect of its own", own),
		"in-flight":      expect("409, or the first result after it", conflict, waited),
		"after-4xx":      expect("the key is free", free),
		"after-5xx":      expect("the 500 is kept", bound),
		// Keys may go after 24 hours at the earliest.
		"replay-next-day": expect("same status and body", same),
	})}

	acp = Rules{"acp", "Agentic Commerce Protocol 2026-04-17", "ACP 2026-04-17, RFC agentic_checkout",
		promised("§6.3", map[string]rule{
			"key-missing": expect("400 idempotency_key_required", refused400).withCode("idempotency_key_required").
				in("§6.1"),
			"key-255":       expect("works", same, sameJSON).in("§6.1"),
			"replay":        expect("the first result", same, sameJSON).in("§6.3"),
			"replay-header": expect("Idempotent-Replayed: true", marked).in("§6.3"),
			"replay-later":  expect("the first result", same, sameJSON).in("§6.3"),
			"other-meaning": expect("422 idempotency_conflict", refused422).withCode("idempotency_conflict").
				in("§6.4"),
			"other-spelling": expect("the first result: members have no order", same, sameJSON).in("§6.2"),
			"other-number":   expect("the first result: 1.0 is 1", same, sameJSON).in("§6.2"),
			"other-order": expect("422 idempotency_conflict: lists are ordered", refused422).
				withCode("idempotency_conflict").in("§6.2"),
			"null-member":    expect("refused: null is not absent", refused422, refused400).in("§6.2"),
			"other-customer": expect("an effect of its own", own).in("§6.1"),
			"in-flight": expect("409 idempotency_in_flight with Retry-After, or the first result after it", conflict,
				waited).withCode("idempotency_in_flight").withRetryAfter().in("§6.4"),
			"after-5xx":       expect("5xx is not kept", free).in("§6.5"),
			"replay-next-day": expect("the first result: keys are kept for 24 hours", same, sameJSON).in("§6.6"),
		})}

	shop = Rules{"shop", "onceshop", "onceshop, openapi.yaml", promised("", map[string]rule{
		"key-missing":    expect("400 idempotency_key_missing", refused400).withCode("idempotency_key_missing"),
		"key-empty":      expect("400 idempotency_key_missing", refused400).withCode("idempotency_key_missing"),
		"key-quoted":     expect("quoted and bare are one key", oneKey),
		"key-255":        expect("works", same),
		"key-256":        expect("400 idempotency_key_invalid", refused400).withCode("idempotency_key_invalid"),
		"key-control":    expect("400", refused400),
		"key-twice":      expect("400 idempotency_key_invalid", refused400).withCode("idempotency_key_invalid"),
		"replay":         expect("the same bytes", same),
		"replay-header":  expect("Idempotent-Replayed: true", marked),
		"replay-later":   expect("the same bytes", same),
		"other-meaning":  expect("422 idempotency_key_reused", refused422).withCode("idempotency_key_reused"),
		"other-spelling": expect("the same bytes", same),
		"other-number":   expect("the same bytes, or 400 as a wrong type", same, refused400),
		"other-order": expect("422 idempotency_key_reused: lists are ordered", refused422).
			withCode("idempotency_key_reused"),
		"null-member":    expect("the same bytes: null is absent; 400 if there is no such member", same, refused400),
		"other-customer": expect("an effect of its own", own),
		"in-flight": expect("the first result after it, or 409 request_in_progress with Retry-After", conflict,
			waited).withCode("request_in_progress").withRetryAfter(),
		"after-4xx":       expect("the key is free", free),
		"after-5xx":       expect("5xx is not kept", free),
		"restart-after":   expect("the same bytes", same),
		"replay-next-day": expect("the same bytes", same),
	})}
)
