package proof

import (
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/proof/lab"
	"github.com/onceshop/onceshop/internal/proof/lab/pages"
	"github.com/onceshop/onceshop/internal/redisclient"
	"github.com/onceshop/onceshop/web"
)

// LabSection is the lab's pages on a node of the shop. A node without Redis and NATS has no lab;
// its pages say so. The function demo is called when the node starts.
func LabSection(demo func() DemoServers) app.Section {
	return app.Section{
		Section: web.Section{Path: "/lab", Name: "Lab", Title: "Duplicates lab"},
		Start: func(e *echo.Echo, shop *web.Web, node app.Node) func() {
			var l *lab.Lab
			closeRedis := func() error { return nil }
			if node.RedisURL != "" && node.NATS != nil {
				client, err := redisclient.Open(node.RedisURL)
				if err != nil { // the node opened one from the same address
					panic(err)
				}
				closeRedis = client.Close
				l = lab.New(node.Pool, client, node.NATS, demo().witnesses(), node.Log)
			}
			p := pages.New(shop, l, node.Log)
			p.Register(e)
			return func() {
				p.Close()
				if l != nil {
					l.Close()
				}
				_ = closeRedis()
			}
		},
	}
}
