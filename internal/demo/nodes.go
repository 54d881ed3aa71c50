package demo

import (
	"context"
	"fmt"
	"net"

	"github.com/onceshop/onceshop/internal/app"
)

// startNodes starts more nodes of the shop on free ports, until there are that many. They share all
// servers and this process.
func (d *demo) startNodes(ctx context.Context, nodes int) error {
	for len(d.nodes) < nodes {
		if err := d.startNode(ctx); err != nil {
			return fmt.Errorf("start node %d: %w", len(d.nodes)+1, err)
		}
		fmt.Fprintf(d.out, "  node %-23d %s\n", len(d.nodes), d.nodes[len(d.nodes)-1])
	}
	return nil
}

func (d *demo) startNode(ctx context.Context) error {
	var listen net.ListenConfig
	web, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	ops, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		_ = web.Close()
		return fmt.Errorf("listen: %w", err)
	}
	node, err := app.New(ctx, d.config, app.Everything, d.log)
	if err != nil {
		_, _ = web.Close(), ops.Close()
		return err
	}
	d.nodes = append(d.nodes, visit(web.Addr()))
	return d.background(ctx, func(ctx context.Context, ready func()) error {
		defer node.Close()
		ready()
		return node.Run(ctx, web, ops)
	})
}
