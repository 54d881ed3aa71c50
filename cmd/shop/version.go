package main

import (
	"fmt"

	"github.com/onceshop/onceshop/internal/app"
)

type versionCommand struct{}

func (versionCommand) Run(p *program) error {
	build := app.BuildInfo()
	_, err := fmt.Fprintf(p.stdout, "onceshop %s\ncommit %s\n%s\n", build.Version, build.Commit, build.Go)
	return err
}
