// Package problem defines the body of every error answer: RFC 9457, plus a code and whether a new
// idempotency key is safe. Its table has every code.
package problem

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
)

// ContentType of every Problem.
const ContentType = "application/problem+json"

// Problem is the body of an error answer. SafeNewKey reports whether a retry with a new idempotency
// key cannot cause a second effect. If it is false, only the same key is safe.
type Problem struct {
	Type       string `json:"type"`
	Title      string `json:"title"`
	Status     int    `json:"status"`
	Detail     string `json:"detail"`
	Code       string `json:"code"`
	SafeNewKey bool   `json:"safe_new_key"`

	// Members of some codes; see the OpenAPI document.
	Items    any    `json:"items,omitempty"`
	Charge   any    `json:"charge,omitempty"`
	ChargeID string `json:"charge_id,omitempty"`
	Refund   any    `json:"refund,omitempty"`
	// Total and Refundable are in minor units.
	Total      *int64 `json:"total,omitempty"`
	Currency   string `json:"currency,omitempty"`
	Refundable *int64 `json:"refundable,omitempty"`
}

// Kind describes all problems of one code.
type Kind struct {
	Code       string
	Status     int
	Title      string
	SafeNewKey bool
	// Detail is what most problems of this kind have as their detail, or an example of it.
	Detail string

	// Meaning, Safety and Remedy explain the problem to people: what happened, why a new key is
	// safe or not, and what to do.
	Meaning, Safety, Remedy string

	// members adds an example of the kind's own members. It is nil for most kinds.
	members func(*Problem)
}

// Kinds returns every kind, in the order of their status.
func Kinds() []Kind {
	sorted := slices.Clone(kinds)
	slices.SortStableFunc(sorted, func(a, b Kind) int { return cmp.Compare(a.Status, b.Status) })
	return sorted
}

// Find returns the kind of a code.
func Find(code string) (kind Kind, ok bool) {
	i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Code == code })
	if i < 0 {
		return Kind{}, false
	}
	return kinds[i], true
}

// Path returns where the shop explains problems of this kind. It is their type: a relative URI
// reference, which a client resolves against the address of its request.
func (k Kind) Path() string { return "/problems/" + k.Code }

// Example returns a problem of this kind with all its members.
func (k Kind) Example() Problem {
	p := k.problem(k.Detail)
	if k.members != nil {
		k.members(&p)
	}
	return p
}

func (k Kind) problem(detail string) Problem {
	return Problem{Type: k.Path(), Title: k.Title, Status: k.Status, Detail: detail, Code: k.Code,
		SafeNewKey: k.SafeNewKey}
}

// New returns a problem of a code in the table, with the kind's own detail if detail is empty. It
// panics on another code.
func New(code, detail string) Problem {
	kind, ok := Find(code)
	if !ok {
		panic("problem: the table has no code " + code)
	}
	return kind.problem(cmp.Or(detail, kind.Detail))
}

// Body returns the problem as JSON.
func (p Problem) Body() []byte {
	body, err := json.Marshal(p)
	if err != nil {
		panic("problem: " + err.Error()) // the shop sets only values that marshal
	}
	return body
}

// Write answers the request with the problem.
func (p Problem) Write(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", ContentType)
	w.WriteHeader(p.Status)
	_, err := w.Write(p.Body())
	return err
}
