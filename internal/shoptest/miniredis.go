package shoptest

import (
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// Miniredis starts a small Redis inside the test's process and returns its URL. It needs no
// redis-server on the machine.
func Miniredis(t testing.TB) string {
	t.Helper()
	server := miniredis.NewMiniRedis()
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		expireKeys(server, quit)
	}()
	t.Cleanup(func() {
		close(quit)
		<-ended
		server.Close()
	})
	return "redis://" + server.Addr() + "/0"
}

// expireKeys advances the clock for the keys' times to live, because miniredis does not. After a
// stall keys live longer, never shorter: a lease must not end early.
func expireKeys(server *miniredis.Miniredis, quit <-chan struct{}) {
	const step = 100 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-quit:
			return
		case <-tick.C:
			now := time.Now()
			server.FastForward(min(now.Sub(last), step))
			last = now
		}
	}
}
