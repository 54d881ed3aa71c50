// Package problem defines the body of every error answer: RFC 9457, plus a code and whether a new
// idempotency key is safe.
package problem

import (
	"encoding/json"
	"net/http"
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
	// Refundable is in minor units.
	Refundable *int64 `json:"refundable,omitempty"`
}

// New returns a problem. Its type is derived from the code.
func New(status int, code, title, detail string, safeNewKey bool) Problem {
	return Problem{
		Type:       "/problems/" + code,
		Title:      title,
		Status:     status,
		Detail:     detail,
		Code:       code,
		SafeNewKey: safeNewKey,
	}
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
