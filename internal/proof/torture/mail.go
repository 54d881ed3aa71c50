package torture

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// The moment between the mail server's 250 and our record is short, unless the database is away:
// then the sender goes on trying.
const (
	momentBefore  = time.Second
	momentAfter   = 3 * time.Second
	recordingTime = 25 * time.Second
	// longestSend is one SMTP conversation, of a node that may have been stopped meanwhile.
	longestSend = 10*time.Second + longestStop
	// senders work at a time on one node, and two generations of a node can die in one moment.
	senders = 16
)

// receipts are the mailbox's receipts, each as the times of its copies.
func (r *run) receipts(ctx context.Context) (map[string][]time.Time, error) {
	copies := map[string][]time.Time{}
	seen := 0
	for {
		var page struct {
			Total    int `json:"total"`
			Messages []struct {
				MessageID string
				Created   time.Time
			} `json:"messages"`
		}
		if err := r.get(ctx, fmt.Sprintf("http://%s/api/v1/messages?limit=1000&start=%d", r.servers.mailbox.address,
			seen), &page); err != nil {
			return nil, err
		}
		for _, m := range page.Messages {
			copies[m.MessageID] = append(copies[m.MessageID], m.Created)
		}
		if seen += len(page.Messages); len(page.Messages) == 0 || seen >= page.Total {
			return copies, nil
		}
	}
}

func (r *run) get(ctx context.Context, url string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("ask a witness: %w", err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("ask a witness: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("ask a witness: %s: %s", url, answer.Status)
	}
	if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
		return fmt.Errorf("read what a witness says: %w", err)
	}
	return nil
}

// checkTwins allows a further copy of a receipt only if nothing had recorded the one before, and
// something broke in the moment when that one was accepted. A node that dies leaves no more copies
// than it had senders.
func (r *run) checkTwins(ctx context.Context) error {
	copies, err := r.receipts(ctx)
	if err != nil {
		return err
	}
	recorded, err := r.recorded(ctx)
	if err != nil {
		return err
	}
	caused := map[int]int{}
	for id, at := range copies {
		r.count.receipts.Add(1)
		slices.SortFunc(at, time.Time.Compare)
		order := orderOf(id)
		for i := range len(at) - 1 {
			r.count.extras.Add(1)
			cause := r.broke(at[i].Sub(r.begin))
			if cause >= 0 {
				caused[cause]++
				r.count.extra(r.disturbances[cause].what)
			}
			switch {
			case cause < 0:
				r.violate("I11", order, fmt.Sprintf("receipt %d came %s after the one before, and nothing had "+
					"broken when that one was accepted", i+2, at[i+1].Sub(at[i])))
			case at[i+1].After(recorded[order].Add(longestSend)):
				r.violate("I11", order, fmt.Sprintf("receipt %d came %s after the receipt was recorded as sent", i+2,
					at[i+1].Sub(recorded[order])))
			}
		}
	}
	for cause, times := range caused {
		if d := r.disturbances[cause]; d.node != "" && strings.HasPrefix(d.what, "crash") && times > senders {
			r.violate("I11", "", fmt.Sprintf("%d further receipts after %s of %s, which had %d senders", times, d.what,
				d.node, senders))
		}
	}
	return nil
}

// orderOf is the order that a receipt's Message-ID names.
func orderOf(id string) string {
	return strings.TrimPrefix(strings.SplitN(strings.Trim(id, "<>"), "@", 2)[0], "receipt.")
}

// recorded is when each order's receipt was recorded as sent.
func (r *run) recorded(ctx context.Context) (map[string]time.Time, error) {
	rows, err := r.servers.postgres.direct().Query(ctx,
		"SELECT order_id::text, sent_at FROM receipts WHERE sent_at IS NOT NULL")
	if err != nil {
		return nil, fmt.Errorf("read the receipts: %w", err)
	}
	defer rows.Close()
	recorded := map[string]time.Time{}
	for rows.Next() {
		var order string
		var at time.Time
		if err := rows.Scan(&order, &at); err != nil {
			return nil, fmt.Errorf("read the receipts: %w", err)
		}
		recorded[order] = at
	}
	return recorded, rows.Err()
}

// broke returns the disturbance that can have kept a sender from recording what was accepted at a
// time, -1 for none. Of several it takes the one that explains the most.
func (r *run) broke(accepted time.Duration) int {
	for _, kind := range []string{"mail.", "crash", "node.", "postgres.", ""} {
		at := slices.IndexFunc(r.disturbances, func(d disturbance) bool {
			after := momentAfter
			if strings.HasPrefix(d.what, "postgres.") {
				after = recordingTime
			}
			return strings.HasPrefix(d.what, kind) && d.at <= accepted+after && d.until >= accepted-momentBefore
		})
		if at >= 0 {
			return at
		}
	}
	return -1
}
