package app

import (
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"github.com/nats-io/nats.go"

	"github.com/onceshop/onceshop/web"
)

// Section adds pages of another wing to the public address of a node.
type Section struct {
	web.Section
	// Start registers the pages. It returns a function that stops their background work.
	Start func(e *echo.Echo, shop *web.Web, node Node) (stop func())
}

// Node gives a section the node's connections. RedisURL and NATS are empty on a node without
// workers.
type Node struct {
	Pool     *pgxpool.Pool
	RedisURL string
	NATS     *nats.Conn
	Log      *slog.Logger
}

// inSection reports whether the path belongs to a section.
func (a *App) inSection(path string) bool {
	for _, section := range a.config.Sections {
		if strings.HasPrefix(path, section.Path) {
			return true
		}
	}
	return false
}
