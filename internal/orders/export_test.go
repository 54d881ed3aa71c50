package orders

import (
	"context"
	"errors"
	"io"

	"github.com/onceshop/onceshop/internal/coalesce"
	"github.com/onceshop/onceshop/internal/dedup"
)

// PlaceAll runs Place for requests that share every batch.
func PlaceAll(ctx context.Context, s *Service, requests []PlaceOrder) ([]coalesce.Outcome[dedup.Answer], error) {
	outcomes := make([]coalesce.Outcome[dedup.Answer], len(requests))
	var waiting []int
	for i := range requests {
		waiting = append(waiting, i)
	}
	for len(waiting) > 0 {
		var asked []request
		for _, i := range waiting {
			asked = append(asked, request{requests[i], requests[i].Fingerprint()})
		}
		looked, err := s.look(ctx, asked)
		if err != nil {
			return nil, err
		}
		var drafts []draft
		var drafted []int
		for n, i := range waiting {
			if errors.Is(looked[n].Err, dedup.ErrNoRow) {
				drafts, drafted = append(drafts, looked[n].Answer.draft), append(drafted, i)
				continue
			}
			outcomes[i].Answer, outcomes[i].Err = dedup.Once(ctx, dedup.Request{Fingerprint: asked[n].fingerprint,
				Find: func(context.Context) (dedup.Row, error) { return looked[n].Answer.row, looked[n].Err }})
		}
		waiting = nil
		if len(drafts) == 0 {
			return outcomes, nil
		}
		placed, err := s.place(ctx, drafts)
		if err != nil {
			return nil, err
		}
		for n, i := range drafted {
			outcomes[i] = placed[n]
			if errors.Is(placed[n].Err, dedup.ErrKeyTaken) {
				waiting = append(waiting, i)
			}
		}
	}
	return outcomes, nil
}

// ReadDeliveries reads a file as Import does, without a database. It returns the delivery ids of
// the accepted lines.
func ReadDeliveries(file io.Reader, known ...string) (ids []string, report ImportReport, err error) {
	run := &importRun{supplier: "s", known: known, seen: dedup.NewSeen(importSeen, importSeenFor)}
	defer run.seen.Close()
	err = run.read(file, func(batch []deliveryLine) error {
		for _, l := range batch {
			ids = append(ids, l.deliveryID)
		}
		return nil
	})
	return ids, run.report, err
}
