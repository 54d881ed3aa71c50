//go:build proof

package main

import (
	"log/slog"

	"github.com/onceshop/onceshop/internal/proof/kill"
)

// With the proof wing, the process dies at the point named by SHOP_CRASH_AT, as shop serve does.
func init() {
	prepare = func(log *slog.Logger) error {
		point, err := kill.Arm()
		if point != "" {
			log.Warn("this process kills itself at a crash point", "setting", kill.Env, "point", point)
		}
		return err
	}
}
