package main

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/proof"
	"github.com/onceshop/onceshop/internal/proof/kill"
)

// proofCommands are the commands of the proof wing. Deleting internal/proof and this file removes
// the wing.
type proofCommands struct {
	Lab     labCommand     `cmd:"" help:"Run the duplicates lab: a naive and a guarded program under the same faults."`
	Bench   benchCommand   `cmd:"" help:"Measure the shop against a naive twin, and print the ratios."`
	Torture tortureCommand `cmd:"" help:"Inject random faults, then check that nothing was lost or doubled."`
	Twin    twinCommand    `cmd:"" help:"Test the idempotency of any HTTP API from outside."`
}

func init() {
	// The init function of the demo may run later.
	lab := proof.LabSection(func() proof.DemoServers { return demoServers })
	wings = append(wings, wing{
		commands: func() any { return &proofCommands{} },
		sections: []app.Section{lab},
		prepare:  armCrashPoint,
	})
}

// armCrashPoint makes the process die at the point named by SHOP_CRASH_AT, if it is set.
func armCrashPoint(log *slog.Logger) error {
	point, err := kill.Arm()
	if err != nil {
		return app.UsageError{Err: err}
	}
	if point != "" {
		log.Warn("this process kills itself at a crash point", "setting", kill.Env, "point", point)
	}
	return nil
}

type labCommand struct {
	JSON        bool     `name:"json" help:"Print one JSON document with all steps, counts and verdicts; times in ns."`
	Experiments []string `arg:"" optional:"" name:"experiment" help:"Run only these."`
}

// Help is shown by shop lab --help.
func (labCommand) Help() string {
	return `Each experiment injects one fault into two programs at once: a naive one, and the guarded one that
the shop runs. Then it counts the effects in the database, at the provider, in the stream and in the
mailbox.

The lab uses DATABASE_URL, REDIS_URL and BROKER_URL, or the servers of the demo on SHOP_DATA_DIR. It
starts the servers that neither provides. In the database it uses its own schemas only.

Exit code 1 if a guarded program fails, or if a naive one does not fail as expected.`
}

func (c *labCommand) Run(p *program) error {
	// Experiments fail on purpose; the report covers all of it.
	log := slog.New(slog.DiscardHandler)
	return proof.Lab(p.ctx, p.config, demoServers, c.Experiments, c.JSON, p.stdout, p.stderr, log)
}

type benchCommand struct {
	JSON     bool          `name:"json" help:"Print one JSON document."`
	Duration time.Duration `default:"60s" help:"How long to run, at least 20s; with --orders, how long to measure."`
	Orders   int           `placeholder:"N" help:"Measure growth instead: an empty shop against one with N orders."`
}

// Help is shown by shop bench --help.
func (benchCommand) Help() string {
	return `Two programs do the same work side by side: a naive one, which writes each order in its own
transaction, one statement at a time, and the shop. Both get the same machine, database, number of
connections and callers. After each scenario the tables must agree with the answers; otherwise the
scenario has no figure.

The database is DATABASE_URL, or one started for this run. The bench uses its own schemas only
(bench, bench_guarded, bench_unguarded, bench_naive, bench_grown) and drops them at the end. It uses
the whole machine: do not run it beside a shop in production.

With --orders 5000000 there is no naive program. An almost empty shop runs beside a shop with five
million finished orders. Writing these orders takes a few minutes and 3 GB of disk per million.

Exit code 1 if anything was sold twice or an answer was wrong.`
}

func (c *benchCommand) Run(p *program) error {
	return proof.Bench(p.ctx, p.config, demoServers, c.Duration, c.Orders, c.JSON, p.stdout, p.stderr)
}

type tortureCommand struct {
	Seed     uint64        `default:"0" help:"Seed of the faults and the requests; 0 picks one. The report prints it."`
	Duration time.Duration `default:"60s" help:"How long to inject faults, at least 10s; checking comes on top."`
	JSON     bool          `name:"json" help:"Print one JSON document."`
	Keep     bool          `help:"Keep the run's folder even if nothing was found."`
	Points   bool          `help:"List the crash points and exit."`
	Node     string        `placeholder:"PROGRAM" help:"Run the nodes with it, for a broker that shop lacks."`
}

// Help is shown by shop torture --help.
func (tortureCommand) Help() string {
	return `Two nodes and all servers run as processes, with a proxy on every connection between them. Clients
order, pay, refund and repeat their requests, while nodes die at named points and random faults hit
everything. Then the faults end and every key is sent once more. The answers to the clients, the
database, and the records of the provider and the mailbox must agree.

The command needs Postgres and redis-server on this machine and starts its own. It leaves nothing
behind, except after a violation: a folder with all logs.

With BROKER_URL, the events go over that broker, under the names of cell "torture": the run deletes
streams of that name, and a topic with a subscription for receipts must exist. The broker is not
killed, and what it cannot do is left out; the report lists it. The nodes get this command's
SHOP_DUPLICATE_WINDOW, SHOP_STREAM_MAX_AGE and SHOP_STREAM_REPLICAS.

Exit code 1 if an invariant was broken. The report names it, the order, its timeline and the seed.`
}

func (c *tortureCommand) Run(p *program) error {
	if c.Points {
		return proof.ListCrashPoints(p.stdout)
	}
	how := proof.TortureOptions{Seed: c.Seed, Duration: c.Duration, JSON: c.JSON, Keep: c.Keep,
		BrokerURL: p.config.BrokerURL, Node: c.Node}
	if c.Node != "" && how.BrokerURL == "" {
		return app.UsageError{Err: errors.New("--node needs BROKER_URL: the run's own broker is a NATS server")}
	}
	if how.BrokerURL != "" {
		how.BrokerSettings = []string{"SHOP_DUPLICATE_WINDOW=" + p.config.DuplicateWindow.String(),
			"SHOP_STREAM_MAX_AGE=" + p.config.StreamMaxAge.String(),
			fmt.Sprintf("SHOP_STREAM_REPLICAS=%d", p.config.StreamReplicas)}
	}
	return proof.Torture(p.ctx, demoServers, how, p.stdout, p.stderr)
}

type twinCommand struct {
	URL         string   `arg:"" name:"url" help:"Address of the service."`
	Method      string   `default:"POST" help:"Method of the request."`
	Path        string   `help:"Path of the request, after the address."`
	Header      []string `sep:"none" placeholder:"LINE" help:"Header of the request. Repeatable."`
	Body        string   `type:"path" placeholder:"FILE" help:"Body, a template: {{unique}} is new for each intent."`
	OtherBody   string   `type:"path" placeholder:"FILE" help:"A body with another meaning, for the same key."`
	OtherHeader []string `sep:"none" placeholder:"LINE" help:"Header of another customer. Repeatable."`
	FailHeader  []string `sep:"none" placeholder:"LINE" help:"Header that makes the service fail with 5xx."`
	KeyHeader   string   `default:"Idempotency-Key" help:"Name of the key's header."`
	Also        string   `placeholder:"URL" help:"A second node of the same service."`
	Count       string   `placeholder:"CMD" help:"Command that prints how many effects a witness holds."`
	ID          string   `name:"id" default:"$.id" help:"JSONPath of the effect's id in an answer."`
	Restart     string   `placeholder:"CMD" help:"Command that kills the service and starts it."`
	Age         string   `placeholder:"CMD" help:"Command that makes what the service holds almost a day older."`
	As          string   `placeholder:"RULES" help:"Whose rules: ietf, stripe, acp, shop; ietf unless it is the demo."`
	Concurrency int      `default:"100" help:"How many twins are sent at the same instant."`
	JSON        bool     `name:"json" help:"Print one JSON document."`
}

// Help is shown by shop twin --help.
func (twinCommand) Help() string {
	return `Each question sends twins of a request, or a request with a fault, and counts the effects: the
distinct ids in the answers, or what --count prints. One line tells what was expected by which rule
and what came. The requests have real effects: use a test system.

With the address alone, the service is the demo of this shop.

Only the given hosts are asked, with at most some thousand requests and for ten minutes.

Exit code 1 if an effect happened twice or got lost, or if an answer was another customer's. An answer
that only differs from the rules is in the report and is no failure.`
}

func (c *twinCommand) Run(p *program) error {
	how := proof.TwinOptions{URL: c.URL, Also: c.Also, Method: c.Method, Path: c.Path, KeyHeader: c.KeyHeader, ID: c.ID,
		Rules: c.As, Header: c.Header, OtherHeader: c.OtherHeader, FailHeader: c.FailHeader, Body: c.Body,
		OtherBody: c.OtherBody, Count: c.Count, Restart: c.Restart, Age: c.Age, Concurrency: c.Concurrency,
		JSON: c.JSON}
	return proof.Twin(p.ctx, how, p.stdout, p.stderr)
}
