package embedded

import (
	"fmt"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// redisTick is how far the embedded Redis may lag behind when a key's time to live is over.
const redisTick = 100 * time.Millisecond

// Redis is a Redis server inside this process (miniredis). It keeps nothing on disk.
type Redis struct {
	server *miniredis.Miniredis
	url    string
	stop   func()
}

// StartRedis starts an empty Redis on a free port of 127.0.0.1. Only clients that know URL get in.
func StartRedis() (*Redis, error) {
	server, password := miniredis.NewMiniRedis(), newPassword()
	server.RequireAuth(password)
	if err := server.Start(); err != nil {
		return nil, fmt.Errorf("start the embedded Redis: %w", err)
	}
	r := &Redis{server: server, url: serverURL("redis", "", password, server.Addr())}

	quit, ended := make(chan struct{}), make(chan struct{})
	r.stop = sync.OnceFunc(func() {
		close(quit)
		<-ended
		server.Close()
	})
	go func() {
		defer close(ended)
		r.moveTime(quit)
	}()
	return r, nil
}

// moveTime lets keys expire: miniredis's clock for TTLs stands still unless somebody moves it. When
// this process has stalled, keys live longer, never shorter: a lease that ended early would be no
// lease.
func (r *Redis) moveTime(quit <-chan struct{}) {
	tick := time.NewTicker(redisTick)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-quit:
			return
		case <-tick.C:
			now := time.Now()
			r.server.FastForward(min(now.Sub(last), redisTick))
			last = now
		}
	}
}

// URL is the server's address, redis://…, with its password.
func (r *Redis) URL() string { return r.url }

// Stop ends the server and forgets its keys. Stopping twice is fine.
func (r *Redis) Stop() { r.stop() }
