// Command shop runs the onceshop: its demo, its service, and their tools.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/onceshop/onceshop/internal/app"
)

// Exit codes of every command.
const (
	exitFine     = 0
	exitFailed   = 1
	exitWrongUse = 2
)

type commands struct {
	Serve   serveCommand   `cmd:"" help:"Run the service against real servers, named in the environment."`
	Migrate migrateCommand `cmd:"" help:"Manage the database schema."`
	Import  importCommand  `cmd:"" help:"Import a supplier's delivery file into stock, every line once."`
	Product productCommand `cmd:"" help:"Put a product on sale, or change its name, description or price."`
	Check   checkCommand   `cmd:"" help:"Check the invariants in the database, at the provider and in the mailbox."`
	Recover recoverCommand `cmd:"" help:"Bring a database that was restored to an older point up to date."`
	Forget  forgetCommand  `cmd:"" help:"Erase a person's data, or that of one order."`
	Token   tokenCommand   `cmd:"" help:"Create an API token and print it, once."`
	Version versionCommand `cmd:"" help:"Print the version, the commit and the Go release."`
	kong.Plugins
}

// wing has the additions of an outer wing to the program.
type wing struct {
	commands func() any // a new struct whose fields are kong commands
	sections []app.Section
	prepare  func(*slog.Logger) error // runs before the command
}

// wings are set by the init functions of demo.go and proof.go. Deleting such a file removes its
// wing.
var wings []wing

// demoServers start servers of the demo wing in this process, for the proof wing. Each function
// returns its server's address and a function to stop it. They are nil in a program without the
// demo.
var demoServers struct {
	Redis, NATS, Provider func() (url string, stop func(), err error)
	Mailbox               func() (smtpURL, pageURL string, stop func(), err error)
}

// program has the inputs and outputs of a command.
type program struct {
	ctx    context.Context
	config app.Config
	stdout io.Writer
	stderr io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first Ctrl-C stops in order, the second one at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run runs the program and returns the exit code.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) (code int) {
	var c commands
	for _, w := range wings {
		c.Plugins = append(c.Plugins, w.commands())
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	helped := false
	parser := kong.Must(&c, kong.Name("shop"), kong.Description("A checkout in which everything happens once."),
		kong.Writers(stdout, stderr), kong.Exit(func(int) { helped = true }), kong.UsageOnError())
	parsed, err := parser.Parse(args)
	if helped {
		return exitFine
	}
	if err != nil {
		fmt.Fprintf(stderr, "shop: %v (see shop --help)\n", err)
		return exitWrongUse
	}
	p := &program{ctx: ctx, stdout: stdout, stderr: stderr}
	p.config, err = app.ConfigFrom(environ)
	for _, w := range wings {
		p.config.Sections = append(p.config.Sections, w.sections...)
		if err == nil && w.prepare != nil {
			err = w.prepare(p.logger())
		}
	}
	if err == nil {
		err = parsed.Run(p)
	}
	var usage app.UsageError
	switch {
	case err == nil, errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return exitFine
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "shop: %v\n", err)
		return exitWrongUse
	default:
		fmt.Fprintf(stderr, "shop: %v\n", err)
		return exitFailed
	}
}

// logger returns a logger that writes JSON lines.
func (p *program) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(p.stderr, &slog.HandlerOptions{Level: p.config.LogLevel}))
}
