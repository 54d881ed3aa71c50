package main

import "github.com/onceshop/onceshop/internal/app"

type migrateCommand struct {
	Up     migrateUpCommand     `cmd:"" help:"Bring the schema up to date. Safe to run on several nodes at once."`
	Status migrateStatusCommand `cmd:"" help:"List the migrations, applied and pending."`
}

type migrateUpCommand struct{}

func (migrateUpCommand) Run(p *program) error {
	return app.MigrateUp(p.ctx, p.config, p.stdout)
}

type migrateStatusCommand struct{}

func (migrateStatusCommand) Run(p *program) error {
	return app.MigrateStatus(p.ctx, p.config, p.stdout)
}
