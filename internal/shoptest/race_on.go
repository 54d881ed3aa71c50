//go:build race

package shoptest

// raceDetector reports whether the tests run under the race detector, several times as slow.
const raceDetector = true
