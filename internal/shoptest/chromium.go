package shoptest

import (
	"os/exec"
	"testing"
)

// The first two have no windows, and start in a fifth of the time.
var chromiums = []string{"chromium-headless-shell", "chrome-headless-shell",
	"chromium", "chromium-browser", "google-chrome",
	"/Applications/Chromium.app/Contents/MacOS/Chromium",
	"/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"}

// Chromium returns the path of a Chromium or a Chrome.
func Chromium(t testing.TB) string {
	t.Helper()
	for _, name := range chromiums {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	Missing(t, "there is no Chromium and no Chrome on the PATH: apt-get install "+
		"chromium-headless-shell, or brew install --cask chromium")
	return ""
}
