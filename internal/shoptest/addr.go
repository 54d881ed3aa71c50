package shoptest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// FreeAddr returns an address of 127.0.0.1 where nothing listens and where nothing will by chance:
// its port is none of those that systems hand out by themselves (Linux from 32768 up, macOS from
// 49152 up), and no other test is given it while this one runs, in whichever process. What says so
// is the UDP port of that number, which is taken for as long.
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
