package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"

	"github.com/onceshop/onceshop/internal/app"
)

const keysHelp = `Keys, each followed by Enter:

  o  open the shop        c  check the invariants
  l  open the lab         k  kill a node between the charge and its record
  m  open the mailbox     q  quit

`

// takeKeys does what the lines of in ask for, until in or ctx ends.
func (d *demo) takeKeys(ctx context.Context, in io.Reader, running app.Running, quit func()) {
	fmt.Fprint(d.out, keysHelp)
	lines := bufio.NewScanner(in)
	for lines.Scan() && ctx.Err() == nil {
		switch key := strings.ToLower(strings.TrimSpace(lines.Text())); key {
		case "":
		case "o":
			d.open(ctx, running.Shop)
		case "l":
			d.open(ctx, running.Shop+"/lab")
		case "m":
			d.open(ctx, running.Mailbox)
		case "c":
			d.check(ctx)
		case "k":
			if err := d.killANode(ctx, running); err != nil && ctx.Err() == nil {
				fmt.Fprintf(d.out, "  %v\n\n", err)
			}
		case "q":
			quit()
			return
		default:
			fmt.Fprint(d.out, keysHelp)
		}
	}
}

// open shows a page in the browser, or prints its address.
func (d *demo) open(ctx context.Context, address string) {
	command := "xdg-open"
	if runtime.GOOS == "darwin" {
		command = "open"
	}
	//nolint:gosec // the demo's own addresses
	if err := exec.CommandContext(ctx, command, address).Run(); err != nil {
		fmt.Fprintf(d.out, "  %s\n\n", address)
	}
}

func (d *demo) check(ctx context.Context) {
	if err := app.Check(ctx, d.config, 0, 0, d.out); err != nil && ctx.Err() == nil {
		fmt.Fprintf(d.out, "%v\n", err)
	}
	fmt.Fprintln(d.out)
}
