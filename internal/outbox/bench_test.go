package outbox

import (
	"testing"

	"github.com/onceshop/onceshop/internal/shoptest"
)

// BenchmarkRelay drains a backlog of 5,000 events into an embedded JetStream that keeps them in
// files.
func BenchmarkRelay(b *testing.B) {
	const backlog = 5000
	pool := shoptest.DB(b)
	_, broker := openBroker(b, connect(b, startNATS(b, b.TempDir()).URL()))
	relay := NewRelay(pool, broker, lease, nil, quiet)
	for b.Loop() {
		b.StopTimer()
		if _, err := pool.Exec(b.Context(), `INSERT INTO outbox (id, type, order_id, payload)
			SELECT gen_random_uuid(), 'order.placed', gen_random_uuid(), '{"status": "placed", "total": 2800}'
			FROM generate_series(1, $1)`, backlog); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := relay.Drain(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(backlog*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
