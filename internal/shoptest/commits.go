package shoptest

import (
	"bytes"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// CutCommits starts a proxy in front of the database and returns the database's URL through it. The
// fate applies to the first COMMIT after armed is set. It recognizes a COMMIT as a simple query and
// as a prepared statement.
func CutCommits(t testing.TB, databaseURL string, fate Fate) (armed *atomic.Bool, through string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := StartProxy(t, u.Host)
	u.Host = proxy.Addr()
	armed = &atomic.Bool{}
	var mu sync.Mutex
	prepared := [][]byte{[]byte("commit\x00")}
	proxy.OnSend(func(sent []byte) Fate {
		mu.Lock()
		defer mu.Unlock()
		if before, _, ok := bytes.Cut(sent, []byte("\x00COMMIT\x00")); ok {
			name := before[bytes.LastIndexByte(before, 's'):]
			prepared = append(prepared, slices.Concat([]byte{0}, name, []byte{0}))
			return Pass
		}
		commits := slices.ContainsFunc(prepared, func(name []byte) bool { return bytes.Contains(sent, name) })
		if commits && armed.CompareAndSwap(true, false) {
			return fate
		}
		return Pass
	})
	return armed, u.String()
}
