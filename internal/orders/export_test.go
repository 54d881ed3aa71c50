package orders

import "context"

// PlaceAll places what came at the same time.
func PlaceAll(s *Service, ctx context.Context, commands []PlaceOrder) ([]outcome, error) { //nolint:revive // the context belongs to what it calls
	wishes := make([]*wish, len(commands))
	for i, c := range commands {
		wishes[i] = &wish{PlaceOrder: c, fingerprint: c.Fingerprint()}
	}
	return s.placeAll(ctx, wishes)
}
