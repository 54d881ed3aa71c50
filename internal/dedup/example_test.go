package dedup_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// Strategy 1: the database inserts a key once. A repeat gets the first answer, and a different
// request with the key is refused.
func ExampleOnce() {
	shoptest.Example(func(t testing.TB) {
		ctx, db := t.Context(), shoptest.DB(t)
		_, err := db.Exec(ctx, `CREATE TABLE bookings (
			id uuid PRIMARY KEY, customer text, key text, fingerprint bytea, answer bytea, UNIQUE (customer, key))`)
		if err != nil {
			t.Fatal(err)
		}

		book := func(customer, key, seat string) {
			fingerprint := dedup.FingerprintOf(seat)
			answer, err := dedup.Once(ctx, dedup.Request{
				Fingerprint: fingerprint,
				Find: func(ctx context.Context) (row dedup.Row, err error) {
					err = db.QueryRow(ctx, `SELECT id, fingerprint, 201, answer FROM bookings
						WHERE customer = $1 AND key = $2`, customer, key).
						Scan(&row.ID, &row.Fingerprint, &row.Answer.Status, &row.Answer.Body)
					if errors.Is(err, pgx.ErrNoRows) {
						err = dedup.ErrNoRow
					}
					return row, err
				},
				Do: func(ctx context.Context) (dedup.Answer, error) {
					answer := dedup.Answer{ID: uuid.New(), Status: 201, Body: []byte("seat " + seat)}
					inserted, err := db.Exec(ctx, `INSERT INTO bookings VALUES ($1, $2, $3, $4, $5)
						ON CONFLICT (customer, key) DO NOTHING`, answer.ID, customer, key, fingerprint[:], answer.Body)
					if err == nil && inserted.RowsAffected() == 0 {
						err = dedup.ErrKeyTaken
					}
					return answer, err
				},
			})
			fmt.Printf("%s %s: %q, replayed: %t, %v\n", customer, key, answer.Body, answer.Replayed, err)
		}
		book("alice", "k1", "12A")
		book("alice", "k1", "12A")
		book("alice", "k1", "14C")
		book("bob", "k1", "14C")
	})
	// Output:
	// alice k1: "seat 12A", replayed: false, <nil>
	// alice k1: "seat 12A", replayed: true, <nil>
	// alice k1: "", replayed: false, dedup: the idempotency key belongs to a different request
	// bob k1: "seat 14C", replayed: false, <nil>
}

// Strategy 2: a process skips what it has just seen. It can forget, so the work itself is guarded
// by the database.
func ExampleSeen() {
	seen := dedup.NewSeen(1000, time.Hour)
	defer seen.Close()
	for _, line := range []string{"delivery 7, line 1", "delivery 7, line 2", "delivery 7, line 1"} {
		fmt.Println(line, "is new:", seen.First(line))
	}
	// Output:
	// delivery 7, line 1 is new: true
	// delivery 7, line 2 is new: true
	// delivery 7, line 1 is new: false
}

// Strategy 3: one of several nodes claims a piece of work. If Redis fails, the error is neither
// ErrBusy nor ErrDone, and the caller goes on to the database.
func ExampleClaims() {
	shoptest.Example(func(t testing.TB) {
		ctx, server := t.Context(), miniredis.RunT(t)
		claims := patientClaims(t, "redis://"+server.Addr()) // dedup.NewClaims(client, "test:")

		claim, err := claims.Claim(ctx, "receipt:4711", 30*time.Second)
		fmt.Println("first node:", err)
		_, err = claims.Claim(ctx, "receipt:4711", 30*time.Second)
		fmt.Println("second node:", err)

		// The first node sends the receipt and records that in the database.
		if err := claim.Done(ctx, 24*time.Hour); err != nil {
			t.Fatal(err)
		}
		_, err = claims.Claim(ctx, "receipt:4711", 30*time.Second)
		fmt.Println("second node, later:", err)
	})
	// Output:
	// first node: <nil>
	// second node: dedup: another node is working on it
	// second node, later: dedup: the work is done
}

// Strategy 4: the broker stores a message id once in its duplicate window, whatever the body.
func ExampleStream() {
	shoptest.Example(func(t testing.TB) {
		conn, err := nats.Connect(startNATS(t, t.TempDir()).URL())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		js, err := jetstream.New(conn)
		if err != nil {
			t.Fatal(err)
		}
		_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{
			Name: "EVENTS", Subjects: []string{"events.>"}, Retention: jetstream.LimitsPolicy,
			Duplicates: 10 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}

		stream := dedup.NewStream(js, "EVENTS")
		for _, id := range []string{"order.paid.4711", "order.paid.4712", "order.paid.4711"} {
			ack := stream.Publish(t.Context(), dedup.Message{Subject: "events.order.paid", ID: id})[0]
			fmt.Printf("%s is number %d, a duplicate: %t, %v\n", id, ack.Seq, ack.Duplicate, ack.Err)
		}
	})
	// Output:
	// order.paid.4711 is number 1, a duplicate: false, <nil>
	// order.paid.4712 is number 2, a duplicate: false, <nil>
	// order.paid.4711 is number 1, a duplicate: true, <nil>
}
