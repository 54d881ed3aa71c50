package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceshop/onceshop/internal/notify"
)

// naiveSender sends receipts. A key in Redis is its only record of a sent one.
type naiveSender struct {
	redis  redis.UniversalClient
	mailer *notify.Mailer
	keys   string // prefix
	buyer  string
	ttl    time.Duration
}

// sendWithSetNX sends the receipt of an order unless its key exists, and gives a new key a
// lifetime. Sent reports whether this call sent it. The client sends SETNX as SET … NX.
func (s naiveSender) sendWithSetNX(ctx context.Context, orderID string) (sent bool, err error) {
	key := s.keys + "receipt:" + orderID
	first, err := s.redis.SetNX(ctx, key, "sent", 0).Result()
	if err != nil || !first {
		return false, err
	}
	if err := s.redis.Expire(ctx, key, s.ttl).Err(); err != nil {
		return false, fmt.Errorf("give the key an end: %w", err)
	}
	return true, s.send(ctx, orderID)
}

// sendOnce sends the receipt of an order unless its key exists. One command sets the key and its
// lifetime.
func (s naiveSender) sendOnce(ctx context.Context, orderID string) (sent bool, err error) {
	key := s.keys + "receipt:" + orderID
	first, err := s.redis.SetNX(ctx, key, "sent", s.ttl).Result()
	if err != nil || !first {
		return false, err
	}
	if err := s.send(ctx, orderID); err != nil {
		return false, errors.Join(err, s.redis.Del(ctx, key).Err())
	}
	return true, nil
}

// sendEvenWithoutRedis sends the receipt of an order unless its key is in Redis, and also when
// Redis does not answer: one receipt too many is better than none.
func (s naiveSender) sendEvenWithoutRedis(ctx context.Context, orderID string) (sent bool, err error) {
	first, err := s.redis.SetNX(ctx, s.keys+"receipt:"+orderID, "sent", s.ttl).Result()
	if err == nil && !first {
		return false, nil
	}
	return true, s.send(ctx, orderID)
}

func (s naiveSender) send(ctx context.Context, orderID string) error {
	return s.mailer.Send(ctx, notify.Message{
		ID: "receipt." + orderID + "@lab.example", From: "receipts@lab.example", To: s.buyer,
		Subject: "Your receipt", Text: "Thank you for order " + orderID + ".\n",
	})
}
