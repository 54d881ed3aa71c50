//go:build !race

package cards_test

// slower is how much longer the search may take.
const slower = 1
