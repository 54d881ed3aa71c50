package app

import (
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/outbox/broker"
	"github.com/onceshop/onceshop/web"
)

// Section adds pages of another wing to the public address of a node.
type Section struct {
	web.Section
	// Start registers the pages. It returns a function that stops their background work.
	Start func(e *echo.Echo, shop *web.Web, node Node) (stop func())
}

// Node gives a section the node's connections. On a node without workers RedisURL is empty. On one
// without a broker, Broker is nil and BrokerURL empty.
type Node struct {
	Pool      *pgxpool.Pool
	RedisURL  string
	Broker    broker.Broker
	BrokerURL string
	Log       *slog.Logger
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
