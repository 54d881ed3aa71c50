package torture

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/payments"
)

// keyRow is what the database holds under a key.
type keyRow struct {
	id     uuid.UUID
	total  int64
	status int // of the final answer, 0 while there is none
	body   [sha256.Size]byte
}

type scope struct {
	customer uuid.UUID
	op       operation
	key      string
}

const keyRows = `
	SELECT 'orders', customer_id, idempotency_key, id, total, 201, sha256(answer) FROM orders
	UNION ALL SELECT 'charges', customer_id, idempotency_key, id, amount, coalesce(answer_status, 0), sha256(answer)
		FROM charges
	UNION ALL SELECT 'refunds', customer_id, idempotency_key, id, amount, coalesce(answer_status, 0), sha256(answer)
		FROM refunds WHERE idempotency_key IS NOT NULL
	UNION ALL SELECT 'cancellations', c.customer_id, c.idempotency_key, c.order_id, o.total, 200, sha256(c.answer)
		FROM cancellations c JOIN orders o ON o.id = c.order_id
	UNION ALL SELECT 'deliveries', customer_id, idempotency_key, id, 0, 201, sha256(answer) FROM deliveries`

func (r *run) readKeys(ctx context.Context) (map[scope]keyRow, error) {
	rows, err := r.servers.postgres.direct().Query(ctx, keyRows)
	if err != nil {
		return nil, fmt.Errorf("read what stands under the keys: %w", err)
	}
	defer rows.Close()
	held := map[scope]keyRow{}
	for rows.Next() {
		var s scope
		var row keyRow
		var body []byte
		if err := rows.Scan(&s.op, &s.customer, &s.key, &row.id, &row.total, &row.status, &body); err != nil {
			return nil, fmt.Errorf("read what stands under the keys: %w", err)
		}
		copy(row.body[:], body)
		if _, twice := held[s]; twice {
			r.violate("I1", row.id.String(), fmt.Sprintf("two %s under the key %s of one customer", s.op, s.key))
		}
		held[s] = row
	}
	return held, rows.Err()
}

// compare holds what clients were told against the database, and each key's answers against each
// other.
func (r *run) compare(ctx context.Context) error {
	held, err := r.readKeys(ctx)
	if err != nil {
		return err
	}
	for _, asked := range r.world.intents {
		s := scope{asked.customer.id, asked.op, asked.key}
		row, stands := held[s]
		delete(held, s)
		r.compareKey(asked, row, stands)
		if asked.rebuilt {
			continue
		}
		if holds, ok := linearizable(asked.calls); !ok {
			r.count.undecided.Add(1)
		} else if !holds {
			r.violate("I3", asked.about(row),
				fmt.Sprintf("the answers under key %s (%s of %s) fit no order of events: %s", asked.key, asked.op,
					asked.customer.email, asked.story()))
		}
	}
	for s, row := range held {
		r.violate("I1", row.id.String(), fmt.Sprintf("%s under key %s, which nobody sent", s.op, s.key))
	}
	return nil
}

func (r *run) compareKey(asked *intent, row keyRow, stands bool) {
	for _, c := range asked.calls {
		switch {
		case c.bound() && !stands:
			r.count.lost.Add(1)
			r.violate("I2", c.id, fmt.Sprintf("a client was answered %d for %s under key %s of %s, and there is no "+
				"row", c.status, asked.op, asked.key, asked.customer.email))
		case c.bound() && (c.id != row.id.String() || asked.op != delivering && c.total != row.total):
			r.violate("I2", c.id, fmt.Sprintf("a client was told of %s about %d under key %s, the database holds "+
				"%s about %d", c.id, c.total, asked.key, row.id, row.total))
		case c.final() && !asked.rebuilt && (c.status != row.status || c.body != row.body):
			r.violate("I3", asked.about(row),
				fmt.Sprintf("a client was answered %d for %s under key %s in other bytes than those kept with %d",
					c.status, asked.op, asked.key, row.status))
		case c.status == http.StatusUnprocessableEntity && !stands:
			r.violate("I4", c.id, fmt.Sprintf("key %s of %s was called used, and nothing stands under it", asked.key,
				asked.customer.email))
		default:
			continue
		}
		return // one finding a key is enough
	}
}

// about is the order that the intent is about, as far as is known.
func (i *intent) about(row keyRow) string {
	if i.op == placing || i.op == canceling {
		return row.id.String()
	}
	if parts := strings.Split(i.path, "/"); len(parts) > 3 {
		return parts[3]
	}
	return ""
}

// story tells the calls under a key in a line.
func (i *intent) story() string {
	told := ""
	for n, c := range i.calls {
		if n == 40 {
			return told + "…"
		}
		told += fmt.Sprintf("[%d–%d ms variant %d: %s %.13s] ", c.at.Milliseconds(), c.returned.Milliseconds(),
			c.variant, answerKind(c), c.id)
	}
	return told
}

// compareDeclines holds each charge that a client was told was declined against the provider's
// records. Money that was taken under it goes back in the end, but the buyer was told that none
// was, and may have paid with another card.
func (r *run) compareDeclines(ctx context.Context) error {
	var held struct {
		Captures []struct{ ID, Reference, Status string }
	}
	if err := r.get(ctx, "http://"+r.servers.psp.address+"/v1/captures", &held); err != nil {
		return err
	}
	taken := map[string]string{}
	for _, c := range held.Captures {
		if c.Status == payments.CaptureSucceeded {
			taken[c.Reference] = c.ID
		}
	}
	for _, asked := range r.world.intents {
		for _, c := range asked.calls {
			if capture := taken[c.id]; c.code == "declined" && capture != "" {
				r.violate("I6", c.id, fmt.Sprintf("a client was told that charge %s under key %s of %s was "+
					"declined, and the provider took its money as %s", c.id, asked.key, asked.customer.email, capture))
				break
			}
		}
	}
	return nil
}

// compareFailures allows no answer of 500: whatever is away, the answer is 503.
func (r *run) compareFailures(context.Context) error {
	for _, asked := range r.world.intents {
		for _, c := range asked.calls {
			if c.status == http.StatusInternalServerError {
				r.violate("internal", asked.about(keyRow{}), fmt.Sprintf("a client was answered 500 %s for %s under "+
					"key %s of %s", c.code, asked.op, asked.key, asked.customer.email))
				break
			}
		}
	}
	return nil
}
