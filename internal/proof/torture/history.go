package torture

import (
	"crypto/sha256"
	"encoding/json"
	"sync"
	"time"
)

// operation is what a key is used for: its scope, besides the customer.
type operation string

const (
	placing    operation = "orders"
	charging   operation = "charges"
	refunding  operation = "refunds"
	canceling  operation = "cancellations"
	delivering operation = "deliveries"
)

// intent is what a client wants to happen once: all that is sent under one key of one customer.
type intent struct {
	customer *customer
	op       operation
	key      string
	path     string
	body     []byte
	learned  bool // the world knows what came of it
	rebuilt  bool // a restore lost its answer, and it came back without its bytes and its meaning

	mu    sync.Mutex
	calls []call
}

// call is one request and what came back. Times are since the begin of the run.
type call struct {
	client       int
	at, returned time.Duration
	// variant is 0 for the intent's own meaning, and tells other meanings under its key apart.
	variant int
	// status is 0 when nobody answered.
	status   int
	code     string
	id       string
	total    int64
	replayed bool
	body     [sha256.Size]byte
	// chargeID and safeNewKey are those of a refusal, action is where the buyer is sent.
	chargeID   string
	safeNewKey bool
	action     string
}

// ambiguous reports whether the call may have had an effect that nobody told of.
func (c call) ambiguous() bool { return c.status == 0 || c.status >= 500 || c.status == 408 }

// bound reports whether the answer is one that a key keeps.
func (c call) bound() bool {
	return c.status == 200 || c.status == 201 || c.status == 202 || c.status == 402
}

// final reports whether the answer stays the same, byte for byte.
func (c call) final() bool { return c.bound() && c.status != 202 }

// retry reports whether a client sends the same again soon.
func (c call) retry() bool {
	return c.ambiguous() || c.status == 429 || c.code == "request_in_progress"
}

func (i *intent) record(c call) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.calls = append(i.calls, c)
}

// read fills in what the answer says.
func (c *call) read(status int, replayed bool, body []byte) {
	var answer struct {
		ID             string `json:"id"`
		Total          int64  `json:"total"`
		Amount         int64  `json:"amount"`
		Code           string `json:"code"`
		Charge, Refund *struct {
			ID     string `json:"id"`
			Amount int64  `json:"amount"`
		}
		ChargeID   string               `json:"charge_id"`
		SafeNewKey bool                 `json:"safe_new_key"`
		NextAction struct{ URL string } `json:"next_action"`
	}
	c.status, c.replayed, c.body = status, replayed, sha256.Sum256(body)
	if json.Unmarshal(body, &answer) != nil {
		return // the comparison with the database finds an answer without an id
	}
	c.id, c.code, c.total = answer.ID, answer.Code, answer.Total
	c.chargeID, c.safeNewKey, c.action = answer.ChargeID, answer.SafeNewKey, answer.NextAction.URL
	if answer.Amount != 0 {
		c.total = answer.Amount
	}
	if answer.Charge != nil {
		c.id, c.total = answer.Charge.ID, answer.Charge.Amount
	}
	if answer.Refund != nil {
		c.id, c.total = answer.Refund.ID, answer.Refund.Amount
	}
}
