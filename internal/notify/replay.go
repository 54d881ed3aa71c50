package notify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/notify/internal/notifydb"
)

// Fate is what became of a receipt that a restore may have lost.
type Fate int

const (
	// Sent means that the buyer has it.
	Sent Fate = iota
	// Due means that it was not sent. The next sender sends it.
	Due
	// Unclear means that it may have been sent. It is a dead letter: an operator decides.
	Unclear
)

// unclear is the reason of a dead letter that may have been sent.
const unclear = "it may have been sent before the database was restored"

// Recover stores what became of the receipt of a paid order, and reports whether that was open. If
// Redis does not remember that the receipt is sent, its fate is the one that the caller believes.
func (s *Service) Recover(ctx context.Context, orderID uuid.UUID, paidAt time.Time, believed Fate) (Fate, bool, error) {
	claim, err := s.insist(ctx, orderID)
	fate := believed
	switch {
	case errors.Is(err, dedup.ErrDone):
		fate = Sent
	case errors.Is(err, dedup.ErrBusy): // a node died while it was sending
		fate = Unclear
	case err != nil:
		return 0, false, err
	}
	p := notifydb.RecoverReceiptParams{OrderID: orderID, Kind: kindPaid, PaidAt: paidAt}
	switch fate {
	case Sent:
		p.SentAt = &paidAt
	case Unclear:
		p.Dead, p.Reason = true, unclear
	case Due:
	}
	stored, err := s.db.RecoverReceipt(ctx, p)
	if err != nil {
		return 0, false, fmt.Errorf("store what became of a receipt: %w", err)
	}
	s.warn(ctx, claim.Release(ctx)) // it ends by itself, too
	return fate, stored > 0, nil
}

// redisPatience is how long a recovery waits for Redis, which has no say otherwise.
const redisPatience = 10 * time.Second

// insist claims the receipt, and gives a slow Redis time to answer.
func (s *Service) insist(ctx context.Context, orderID uuid.UUID) (claim dedup.Claim, err error) {
	for deadline := time.Now().Add(redisPatience); ; {
		claim, err = s.claims.Claim(ctx, claimKey(orderID), sendLease)
		if err == nil || errors.Is(err, dedup.ErrDone) || errors.Is(err, dedup.ErrBusy) || ctx.Err() != nil ||
			time.Now().After(deadline) {
			return claim, err
		}
	}
}

// OpenReceipts calls each for the receipts that are not sent and not given up.
func (s *Service) OpenReceipts(ctx context.Context, each func(orderID uuid.UUID, paidAt time.Time) error) error {
	after := uuid.Nil
	for {
		rows, err := s.db.ListOpen(ctx, notifydb.ListOpenParams{Kind: kindPaid, After: after})
		if err != nil {
			return fmt.Errorf("list the receipts that are not sent: %w", err)
		}
		if len(rows) == 0 {
			return nil
		}
		for _, row := range rows {
			after = row.OrderID
			if err := each(row.OrderID, row.PaidAt); err != nil {
				return err
			}
		}
	}
}
