//go:build race

package cards_test

// slower is how much longer the search may take: the race detector watches each access.
const slower = 30
