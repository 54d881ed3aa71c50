package check

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/onceshop/onceshop/internal/payments"
)

const (
	// answerTimeout and maxAnswer (in bytes) bound one answer of a witness. The provider lists
	// everything it ever did in one answer.
	answerTimeout = 2 * time.Minute
	maxAnswer     = 1 << 30
	// mailPage is the number of messages in one request to the mailbox.
	mailPage = 1000
)

var client = &http.Client{Timeout: answerTimeout,
	Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}

// receiptID finds the order in the Message-ID of a receipt.
var receiptID = regexp.MustCompile(`^<?receipt\.([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})@`)

// seen is what the witnesses saw.
type seen struct {
	captures []payments.Capture
	refunds  []payments.ProviderRefund
	receipts []receipt
}

// readProvider reads all of the provider's records.
func (s *seen) readProvider(ctx context.Context, url string, _ time.Time) error {
	var held struct {
		Captures []payments.Capture        `json:"captures"`
		Refunds  []payments.ProviderRefund `json:"refunds"`
	}
	for _, path := range []string{"/v1/captures", "/v1/refunds"} {
		if err := get(ctx, url, path, &held); err != nil {
			return err
		}
	}
	s.captures, s.refunds = held.Captures, held.Refunds
	return nil
}

// columns sets the arguments capture_…, refund_… and mail_….
func (s *seen) columns(args pgx.NamedArgs) {
	c, r, m := s.captures, s.refunds, s.receipts
	args["mail_id"] = column(m, func(m receipt) string { return m.id })
	args["mail_order"] = column(m, func(m receipt) string { return m.orderID })
	args["mail_to"] = column(m, func(m receipt) string { return m.to })
	args["capture_id"] = column(c, func(c payments.Capture) string { return c.ID })
	args["capture_charge"] = column(c, func(c payments.Capture) string { return c.Reference })
	args["capture_order"] = column(c, func(c payments.Capture) string { return c.OrderID })
	args["capture_status"] = column(c, func(c payments.Capture) string { return c.Status })
	args["capture_amount"] = column(c, func(c payments.Capture) int64 { return c.Amount })
	args["capture_currency"] = column(c, func(c payments.Capture) string { return c.Currency })
	args["capture_at"] = column(c, func(c payments.Capture) time.Time { return c.CreatedAt })
	args["refund_id"] = column(r, func(r payments.ProviderRefund) string { return r.ID })
	args["refund_capture"] = column(r, func(r payments.ProviderRefund) string { return r.CaptureID })
	args["refund_status"] = column(r, func(r payments.ProviderRefund) string { return r.Status })
	args["refund_at"] = column(r, func(r payments.ProviderRefund) time.Time { return r.CreatedAt })
	args["refund_amount"] = column(r, func(r payments.ProviderRefund) int64 { return r.Amount })
	args["refund_currency"] = column(r, func(r payments.ProviderRefund) string { return r.Currency })
}

// receipt is a message in the mailbox with the Message-ID of an order's receipt.
type receipt struct {
	id, orderID, to string
	created         time.Time
}

// readMailbox reads the receipts in the mailbox, the newest first, back to a while before since.
func (s *seen) readMailbox(ctx context.Context, url string, since time.Time) error {
	seen := map[string]bool{}
	for start := 0; ; {
		var page struct {
			Total    int `json:"total"`
			Messages []struct {
				ID, MessageID string
				To            []struct{ Address string }
				Created       time.Time
			} `json:"messages"`
		}
		if err := get(ctx, url, fmt.Sprintf("/api/v1/messages?limit=%d&start=%d", mailPage, start), &page); err != nil {
			return err
		}
		for _, message := range page.Messages {
			ours := receiptID.FindStringSubmatch(message.MessageID)
			// Mail that arrives meanwhile shifts the pages: the last message of one page is then
			// the first of the next.
			if ours == nil || seen[message.ID] {
				continue
			}
			seen[message.ID] = true
			mail := receipt{id: message.ID, orderID: strings.ToLower(ours[1]), created: message.Created}
			if len(message.To) > 0 {
				mail.to = message.To[0].Address
			}
			s.receipts = append(s.receipts, mail)
		}
		start += len(page.Messages)
		last := len(page.Messages) - 1
		if last < 0 || start >= page.Total || page.Messages[last].Created.Before(since.Add(-clockSkew)) {
			return nil
		}
	}
}

// column returns one value of each row. It is never nil, which pgx would send as NULL.
func column[R, V any](rows []R, value func(R) V) []V {
	values := make([]V, len(rows))
	for i, row := range rows {
		values[i] = value(row)
	}
	return values
}

func get(ctx context.Context, url, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(url, "/")+path, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, answer.Status)
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("GET %s: unreadable answer: %w", path, err)
	}
	return nil
}
