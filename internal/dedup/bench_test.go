package dedup_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// The cost of each strategy. Run: go test -run '^$' -bench . ./internal/dedup

func BenchmarkParseKey(b *testing.B) {
	const id = "8e03978e-40d5-43e8-bc93-6894a57f9324"
	for name, header := range map[string]string{
		"bare":    id,
		"quoted":  `"` + id + `"`,
		"escaped": `"` + strings.Repeat(`\"`, 36) + `"`,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := dedup.ParseKey(header); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkFingerprintOf(b *testing.B) {
	for _, lines := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("lines=%d", lines), func(b *testing.B) {
			c := command{Email: "alice@example.com"}
			for i := range lines {
				c.Lines = append(c.Lines, line{SKU: fmt.Sprint("mug-", i), Quantity: 2})
			}
			b.ReportAllocs()
			for b.Loop() {
				dedup.FingerprintOf(c)
			}
		})
	}
}

func BenchmarkRequestIDOf(b *testing.B) {
	customer, meaning := uuid.New(), dedup.FingerprintOf("mug")
	b.ReportAllocs()
	for b.Loop() {
		dedup.RequestIDOf("orders", customer, "8e03978e-40d5-43e8-bc93-6894a57f9324", meaning)
	}
}

// BenchmarkReplays measures the cost of memory for a repeated request (a hit) and for a first one
// (a miss).
func BenchmarkReplays(b *testing.B) {
	customer, meaning := uuid.New(), dedup.FingerprintOf("mug")
	answer := final(strings.Repeat("b", 300))
	run := func(context.Context) (dedup.Answer, error) { return answer, nil }
	replays := func(b *testing.B) *dedup.Replays {
		b.Helper()
		r := dedup.NewReplays(64<<20, time.Hour)
		b.Cleanup(r.Close)
		return r
	}
	do := func(b *testing.B, r *dedup.Replays, id dedup.RequestID) {
		if _, err := r.Do(b.Context(), id, run); err != nil {
			b.Error(err)
		}
	}
	b.Run("hit", func(b *testing.B) {
		r, id := replays(b), dedup.RequestIDOf("orders", customer, "key", meaning)
		do(b, r, id)
		b.ReportAllocs()
		for b.Loop() {
			do(b, r, id)
		}
	})
	b.Run("hits in parallel", func(b *testing.B) {
		r := replays(b)
		ids := make([]dedup.RequestID, 1024)
		for i := range ids {
			ids[i] = dedup.RequestIDOf("orders", customer, dedup.Key(fmt.Sprint(i)), meaning)
			do(b, r, ids[i])
		}
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				do(b, r, ids[i%len(ids)])
			}
		})
	})
	b.Run("miss", func(b *testing.B) {
		r, id := replays(b), dedup.RequestID{}
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			count(id[:], n)
			do(b, r, id)
		}
	})
	b.Run("misses in parallel", func(b *testing.B) {
		r := replays(b)
		var n atomic.Int64
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				var id dedup.RequestID
				count(id[:], int(n.Add(1)))
				do(b, r, id)
			}
		})
	})
}

// count writes a number into an id.
func count(id []byte, n int) {
	for i := range 8 {
		id[i] = byte(n >> (8 * i))
	}
}

func BenchmarkSeen(b *testing.B) {
	keys := make([]string, 1<<20)
	for i := range keys {
		keys[i] = fmt.Sprint("receipt ", i)
	}
	seen := func(b *testing.B) *dedup.Seen {
		b.Helper()
		s := dedup.NewSeen(100_000, time.Hour)
		b.Cleanup(s.Close)
		return s
	}
	b.Run("first", func(b *testing.B) {
		s := seen(b)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			s.First(keys[i%len(keys)])
		}
	})
	b.Run("again", func(b *testing.B) {
		s := seen(b)
		s.First("receipt")
		b.ReportAllocs()
		for b.Loop() {
			s.First("receipt")
		}
	})
	b.Run("in parallel", func(b *testing.B) {
		s := seen(b)
		var n atomic.Int64
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				s.First(keys[int(n.Add(1))%len(keys)])
			}
		})
	})
}

// BenchmarkClaims asks a real Redis on this machine: one round trip to claim, one to finish.
func BenchmarkClaims(b *testing.B) {
	claims := patientClaims(b, shoptest.Redis(b))
	b.Run("claim and done", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			claim, err := claims.Claim(b.Context(), fmt.Sprint("key ", i), time.Minute)
			if err != nil {
				b.Fatal(err)
			}
			if err := claim.Done(b.Context(), time.Minute); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("already done", func(b *testing.B) {
		if err := mustClaim(b, claims, "done", time.Minute).Done(b.Context(), time.Hour); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := claims.Claim(b.Context(), "done", time.Minute); !errors.Is(err, dedup.ErrDone) {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkStreamPublish publishes batches into an embedded JetStream that keeps them in files; an
// operation is one batch.
func BenchmarkStreamPublish(b *testing.B) {
	stream, _ := openStream(b, startNATS(b, b.TempDir()), time.Minute)
	n := 0
	for _, size := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			batch := make([]dedup.Message, size)
			data := []byte(strings.Repeat("d", 300))
			b.ReportAllocs()
			for b.Loop() {
				for i := range batch {
					n++
					batch[i] = dedup.Message{Subject: "test.a", ID: fmt.Sprint("id ", n), Data: data}
				}
				for _, ack := range stream.Publish(b.Context(), batch...) {
					if ack.Err != nil || ack.Duplicate {
						b.Fatalf("%+v", ack)
					}
				}
			}
			b.ReportMetric(float64(size)*float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}
