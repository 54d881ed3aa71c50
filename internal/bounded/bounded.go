// Package bounded has the type of maps of bounded size. It is an interface, although otter is its
// one implementation: a package that knows a field of otter's own generic type compiles the whole
// cache again, and so does every package that imports it. See docs/decisions.md, D77.
package bounded

// Map is an *otter.Cache that drops entries when it is full.
type Map[K comparable, V any] interface {
	GetIfPresent(key K) (V, bool)
	Set(key K, value V) (V, bool)
	SetIfAbsent(key K, value V) (V, bool)
	Invalidate(key K) (V, bool)
	StopAllGoroutines() bool
}
