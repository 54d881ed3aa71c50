package lab

import (
	"context"
	"sync"
	"time"
)

// naiveMemory remembers the keys of the last requests: at most size of them, each for ttl.
type naiveMemory struct {
	size int
	ttl  time.Duration

	mu    sync.Mutex
	seen  map[string]time.Time
	order []string // the oldest first
}

func newNaiveMemory(size int, ttl time.Duration) *naiveMemory {
	return &naiveMemory{size: size, ttl: ttl, seen: map[string]time.Time{}}
}

// first remembers a key and reports whether it is new. Of several requests at the same moment, it
// returns true to one.
func (m *naiveMemory) first(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, known := m.seen[key]
	if known && time.Since(at) < m.ttl {
		return false
	}
	m.seen[key] = time.Now()
	if !known {
		m.order = append(m.order, key)
	}
	if len(m.order) > m.size {
		delete(m.seen, m.order[0])
		m.order = m.order[1:]
	}
	return true
}

// placeUnlessSeen places an order, unless this process remembers its key.
func (s *naiveShop) placeUnlessSeen(ctx context.Context, key string, quantity int64) (placed bool, err error) {
	if !s.memory.first(key) {
		return false, nil
	}
	_, err = s.insertOrder(ctx, key, quantity)
	return true, err
}

// importDelivery books the lines of a supplier's file that this process has not seen, and returns
// how many.
func (s *naiveShop) importDelivery(ctx context.Context, lines []string) (booked int, err error) {
	for _, line := range lines {
		if !s.memory.first(line) {
			continue
		}
		if _, err := s.exec(ctx, "INSERT INTO stock_movements (run, delivery_id, quantity) VALUES ($1, $2, 10)", s.run,
			line); err != nil {
			return booked, err
		}
		booked++
	}
	return booked, nil
}
