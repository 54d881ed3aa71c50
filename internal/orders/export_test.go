package orders

import "context"

// PlaceAll places what came at the same time.
func PlaceAll(s *Service, ctx context.Context, commands []PlaceOrder) ([]outcome, error) { //nolint:revive // the context belongs to what it calls
	wishes := make([]*wish, len(commands))
	for i, c := range commands {
		wishes[i] = &wish{PlaceOrder: c, fingerprint: c.Fingerprint()}
	}
	if _, err := s.lookAll(ctx, wishes); err != nil {
		return nil, err
	}
	if waiting := pending(wishes); len(waiting) > 0 {
		if _, err := s.placeAll(ctx, waiting); err != nil {
			return nil, err
		}
	}
	outcomes := make([]outcome, len(wishes))
	for i, w := range wishes {
		outcomes[i] = w.outcome
	}
	return outcomes, nil
}
