package app

import (
	"cmp"
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// version and commit are set by the linker where the Go command has no history: see Dockerfile.
var version, commit string

// Build is what the program was built from.
type Build struct{ Version, Commit, Go string }

// BuildInfo returns what the linker was given, or else what the Go command has recorded. A commit
// with a plus sign had changes that were not committed. `go run` records no commit.
func BuildInfo() Build {
	build := Build{Version: cmp.Or(version, "(devel)"), Commit: cmp.Or(commit, "unknown"), Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok || version != "" {
		return build
	}
	build.Version = cmp.Or(info.Main.Version, build.Version)
	changed := ""
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "vcs.revision":
			build.Commit = setting.Value
		case setting.Key == "vcs.modified" && setting.Value == "true":
			changed = "+"
		}
	}
	build.Commit += changed
	return build
}

func init() {
	build := BuildInfo()
	promauto.NewGauge(prometheus.GaugeOpts{
		Name:        "onceshop_build_info",
		Help:        "What the program was built from. Always 1.",
		ConstLabels: prometheus.Labels{"version": build.Version, "commit": build.Commit, "goversion": build.Go},
	}).Set(1)
}
