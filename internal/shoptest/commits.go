package shoptest

import (
	"bytes"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// CutCommits returns a proxy in front of the database whose first COMMIT after `armed` meets its
// fate, and the database's URL through it. A COMMIT comes as a query of its own, or as a statement
// that was prepared before and is called by its name.
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
