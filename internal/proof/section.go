package proof

import (
	"github.com/labstack/echo/v4"
	"github.com/nats-io/nats.go"

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
			disconnect := func() {}
			if node.RedisURL != "" && node.Broker != nil && node.Broker.Name() == "nats" {
				client, err := redisclient.Open(node.RedisURL)
				if err != nil { // the node opened one from the same address
					panic(err)
				}
				broker, err := connectNATS(node.BrokerURL)
				if err != nil {
					panic(err)
				}
				disconnect = func() { broker.Close(); _ = client.Close() }
				l = lab.New(node.Pool, client, broker, demo().witnesses(), node.Log)
			}
			p := pages.New(shop, l, node.Log)
			p.Register(e)
			return func() {
				p.Close()
				if l != nil {
					l.Close()
				}
				disconnect()
			}
		},
	}
}

// connectNATS returns a client of the lab's own, which keeps trying to connect.
func connectNATS(address string) (*nats.Conn, error) {
	return nats.Connect(address, nats.Name("onceshop lab"), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1))
}
