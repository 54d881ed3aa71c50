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

// The moment between the mail server's 250 and our record is short, unless the database is away: then the sender goes on trying.
const (
	momentBefore  = time.Second
	momentAfter   = 3 * time.Second
	recordingTime = 25 * time.Second
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
		if err := r.get(ctx, fmt.Sprintf("http://%s/api/v1/messages?limit=1000&start=%d", r.servers.mailbox.address, seen), &page); err != nil {
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

// checkTwins allows a second copy of a receipt only if something broke in the moment when the first had been accepted and was not recorded.
func (r *run) checkTwins(ctx context.Context) error {
	copies, err := r.receipts(ctx)
	if err != nil {
		return err
	}
	for id, at := range copies {
		r.count.receipts.Add(1)
		slices.SortFunc(at, time.Time.Compare)
		for i := range len(at) - 1 {
			r.count.extras.Add(1)
			if !r.broke(at[i].Sub(r.begin)) {
				order := strings.TrimPrefix(strings.SplitN(strings.Trim(id, "<>"), "@", 2)[0], "receipt.")
				r.violate("I11", order, fmt.Sprintf("receipt %d of %d came %s after the one before, and nothing had broken when that one was accepted", i+2, len(at), at[i+1].Sub(at[i])))
			}
		}
	}
	return nil
}

// broke reports whether a sender may have failed to record what was accepted at a time.
func (r *run) broke(accepted time.Duration) bool {
	return slices.ContainsFunc(r.disturbances, func(d disturbance) bool {
		after := momentAfter
		if strings.HasPrefix(d.what, "postgres.") {
			after = recordingTime
		}
		return d.at <= accepted+after && d.until >= accepted-momentBefore
	})
}
