package coalesce

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// errHeld is the outcome of a request that needs a row or a key which another transaction holds.
var errHeld = errors.New("coalesce: another transaction holds a row")

// Rows describes the rows that the requests of a batch lock. When a batch ends with a lock timeout,
// the requests that need a row which another transaction holds leave it, and the others run again.
// New requests that need the row wait outside the batches.
type Rows[Q any] struct {
	// Of returns the rows that the request locks.
	Of func(Q) []string
	// Held returns those of the rows that another transaction holds now.
	Held func(context.Context, []string) ([]string, error)
}

const (
	// lookEvery is how often to look whether a held row is free.
	lookEvery = 100 * time.Millisecond
	// longestHold is how long requests wait outside the batches before one tries again. A row that
	// many nodes lock in turn may never look free.
	longestHold = 2 * time.Second
	lookTimeout = time.Second
)

// gates are closed while another transaction holds a row.
type gates struct {
	mu     sync.Mutex
	closed map[any]*gate // by a row, or by what rivals compete for
}

type gate struct {
	opened chan struct{}
	since  time.Time
}

// waitForRows returns when none of the request's rows is held.
func (b *Batcher[Q, A]) waitForRows(ctx context.Context, request Q) error {
	for {
		gate := b.closedGate(request)
		if gate == nil {
			return nil
		}
		select {
		case <-gate.opened:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *Batcher[Q, A]) closedGate(request Q) *gate {
	b.held.mu.Lock()
	defer b.held.mu.Unlock()
	if len(b.held.closed) == 0 {
		return nil
	}
	if b.Rivals != nil {
		over, _ := b.Rivals(request)
		if gate := b.held.closed[over]; gate != nil {
			return gate
		}
	}
	if b.Rows == nil {
		return nil
	}
	for _, row := range b.Rows.Of(request) {
		if gate := b.held.closed[row]; gate != nil {
			return gate
		}
	}
	return nil
}

// withoutHeld returns the calls of the batch whose rows are free. The others go back to wait.
func (b *Batcher[Q, A]) withoutHeld(batch []*call[Q, A]) []*call[Q, A] {
	if b.Rows == nil {
		return batch
	}
	var rows []string
	for _, c := range batch {
		rows = append(rows, b.Rows.Of(c.request)...)
	}
	held, err := b.look(rows)
	if err != nil || len(held) == 0 {
		return batch
	}
	for _, row := range held {
		b.closeGate(row)
	}
	free := make([]*call[Q, A], 0, len(batch))
	for _, c := range batch {
		if b.closedGate(c.request) == nil {
			free = append(free, c)
			continue
		}
		c.outcome.Err = errHeld
		close(c.done)
	}
	return free
}

func (b *Batcher[Q, A]) look(rows []string) ([]string, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	return b.Rows.Held(ctx, rows)
}

// keepOut closes the gate for the next tries of a request that failed alone, and for its rivals.
// Another transaction may hold its key, or the database refuses it: a batch with it fails again.
func (b *Batcher[Q, A]) keepOut(request Q) {
	if b.Rivals != nil {
		over, _ := b.Rivals(request)
		b.closeGate(over)
	}
}

func (b *Batcher[Q, A]) closeGate(at any) {
	b.held.mu.Lock()
	defer b.held.mu.Unlock()
	if b.held.closed == nil {
		b.held.closed = make(map[any]*gate)
	}
	if len(b.held.closed) == 0 {
		time.AfterFunc(lookEvery, b.watchGates)
	}
	if b.held.closed[at] == nil {
		b.held.closed[at] = &gate{opened: make(chan struct{}), since: time.Now()}
	}
}

// watchGates opens the gates of rows that have become free, again and again until none is closed.
func (b *Batcher[Q, A]) watchGates() {
	b.held.mu.Lock()
	var rows []string
	for at := range b.held.closed {
		if row, ok := at.(string); ok {
			rows = append(rows, row)
		}
	}
	b.held.mu.Unlock()
	held, err := b.look(rows)
	if b.openGates(held, err) {
		time.AfterFunc(lookEvery, b.watchGates)
	}
}

// openGates opens the gates of the rows that are not held, and those that have been closed for
// long, and reports whether any is still closed. If the database cannot be asked, it opens all.
func (b *Batcher[Q, A]) openGates(held []string, err error) (left bool) {
	b.held.mu.Lock()
	defer b.held.mu.Unlock()
	for at, gate := range b.held.closed {
		row, isRow := at.(string)
		free := isRow && !slices.Contains(held, row)
		if free || err != nil || time.Since(gate.since) > longestHold {
			delete(b.held.closed, at)
			close(gate.opened)
		}
	}
	return len(b.held.closed) > 0
}
