package main

import "github.com/onceshop/onceshop/internal/app"

type migrateCommand struct {
	Up     migrateUpCommand     `cmd:"" help:"Bring the schema up to date. Nodes that do so together take turns."`
	Status migrateStatusCommand `cmd:"" help:"List the steps and which of them the database has."`
}

type migrateUpCommand struct{}

func (migrateUpCommand) Run(p *program) error {
	return app.MigrateUp(p.ctx, p.config, p.stdout)
}

type migrateStatusCommand struct{}

func (migrateStatusCommand) Run(p *program) error {
	return app.MigrateStatus(p.ctx, p.config, p.stdout)
}
