package outbox

import (
	"context"
	"encoding/json"

	"github.com/onceshop/onceshop/internal/outbox/broker"
)

// Letters lists and retries the shop's dead letters for operators. Each consumer guards its own
// effect, so a letter can be retried whatever came of it. See docs/decisions.md, D35.
type Letters struct{ letters broker.Letters }

// NewLetters returns the dead letters of the broker.
func NewLetters(b broker.Broker) *Letters { return &Letters{b.Letters()} }

// Letter is an event that a consumer gave up on.
type Letter struct {
	broker.Letter
	// Event is zero if it cannot be decoded, which can be the reason.
	Event Event
}

// List is that of broker.Letters.
func (l *Letters) List(ctx context.Context, before string, limit int) (letters []Letter, more bool, err error) {
	list, more, err := l.letters.List(ctx, before, limit)
	for _, letter := range list {
		letters = append(letters, opened(letter))
	}
	return letters, more, err
}

// Retry is that of broker.Letters.
func (l *Letters) Retry(ctx context.Context, id string) (Letter, error) {
	letter, err := l.letters.Retry(ctx, id)
	return opened(letter), err
}

// RetryAll is that of broker.Letters.
func (l *Letters) RetryAll(ctx context.Context) (retried int, more bool, err error) {
	return l.letters.RetryAll(ctx)
}

func opened(letter broker.Letter) Letter {
	opened := Letter{Letter: letter}
	if err := json.Unmarshal(letter.Data, &opened.Event); err != nil {
		opened.Event = Event{}
	}
	return opened
}
