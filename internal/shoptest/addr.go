package shoptest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// FreeAddr returns an address of 127.0.0.1 on which nothing listens. Its port is below the
// ephemeral ports (Linux from 32768 up, macOS from 49152 up), so no other program gets it by
// accident. No other test gets it while this one runs, even in another process: FreeAddr holds the
// UDP port of the same number as a lock.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+rand.IntN(12000)))
		taken, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		listener, err := net.Listen("tcp", addr)
		if err != nil {
			_ = taken.Close()
			continue
		}
		t.Cleanup(func() { _ = taken.Close() })
		if err := listener.Close(); err != nil {
			t.Fatal(err)
		}
		return addr
	}
}
