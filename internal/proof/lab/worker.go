package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/notify"
	"github.com/onceshop/onceshop/internal/outbox"
)

// patience is what a busy machine gets where the shop gives up sooner: an experiment has the faults
// that it is about, and no others.
const patience = 10 * time.Second

// worker is a process that publishes events or sends receipts. Its clients are its own: they draw
// what passes over them, and the process can die at any of them.
type worker struct {
	bench  *Bench
	actor  Actor
	redis  redis.UniversalClient
	mailer *notify.Mailer
	// receipts is the shop's own service, and nil for a naive worker.
	receipts *notify.Service

	hold atomic.Pointer[hold]
	// deathAt is the point where the process dies, lastWords what is drawn then.
	deathAt, lastWords string
}

// worker starts a process. Where Redis is down, it gets a client that is refused.
func (b *Bench) worker(ctx context.Context, actor Actor, redisDown bool) (*worker, error) {
	w := &worker{bench: b, actor: actor}
	var err error
	if redisDown {
		w.redis = b.deadRedis()
	} else if w.redis, err = b.redisClient(ctx); err != nil {
		return nil, err
	}
	w.redis.AddHook(redisPen{w})
	w.mailer, err = w.openMailGate(ctx)
	return w, err
}

// guarded is a worker that sends receipts as the shop does.
func (b *Bench) guarded(ctx context.Context, actor Actor, redisDown bool) (*worker, error) {
	w, err := b.worker(ctx, actor, redisDown)
	if err != nil {
		return nil, err
	}
	pool, err := w.open(ctx, b.Guarded, nil)
	if err != nil {
		return nil, err
	}
	shop := notify.Shop{Name: "Lab", URL: "http://lab.example", Host: "lab.example", From: "receipts@lab.example"}
	w.receipts = notify.New(pool, b.orders(), dedup.NewClaims(w.redis, b.keys()), w.mailer, shop, nil,
		slog.New(slog.DiscardHandler))
	return w, nil
}

// open returns a pool of the worker's own on the same schema.
func (w *worker) open(ctx context.Context, schema *pgxpool.Pool,
	prepare func(context.Context, *pgx.Conn) error) (*pgxpool.Pool, error) {
	config := schema.Config()
	config.MaxConns = 2
	config.ConnConfig.Tracer = sqlPen{w}
	config.AfterConnect = prepare
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", w.actor, err)
	}
	w.bench.OnEnd(pool.Close)
	return pool, nil
}

// diesAt has the process die at a point, as in "after set" or "before MarkSent": the name is that
// of a Redis command, of a query, or of what the experiment calls reach with.
func (w *worker) diesAt(point, lastWords string) { w.deathAt, w.lastWords = point, lastWords }

// reach ends the process here if this is where it dies.
func (w *worker) reach(ctx context.Context, point string) {
	if w.deathAt == point {
		w.deathAt = ""
		w.bench.Crash(ctx, w.actor, "%s", w.lastWords)
	}
}

// process runs work as the worker's process. It is an error not to die where the experiment is
// about that.
func (w *worker) process(work func() error) (finished bool, err error) {
	finished, err = w.bench.Process(work)
	if err == nil && w.deathAt != "" {
		err = fmt.Errorf("%s has not died %s", w.actor, w.deathAt)
	}
	return finished, err
}

// handle hands the paid event to the shop's service. Busy reports that the receipt is not sent yet:
// its row stands, and another worker is at it or the row is due later.
func (w *worker) handle(ctx context.Context, event outbox.Event) (busy bool, err error) {
	w.bench.Does(ctx, w.actor, "handles %s", event.Type)
	finished, err := w.process(func() error { return w.receipts.HandlePaid(ctx, event) })
	if err != nil || !finished {
		return false, err
	}
	err = w.bench.Guarded.QueryRow(ctx, "SELECT count(*) = 0 FROM receipts WHERE order_id = $1 AND sent_at IS NOT NULL",
		event.OrderID).Scan(&busy)
	if err != nil {
		return false, fmt.Errorf("read the receipt: %w", err)
	}
	if busy {
		w.bench.Stops(ctx, w.actor, "busy elsewhere: the row is there, and due later")
	}
	return busy, nil
}

// settle hands the event over once more, when no other worker is at it.
func (w *worker) settle(ctx context.Context, event outbox.Event) error {
	busy, err := w.handle(ctx, event)
	if err == nil && busy {
		err = errors.New("a claim is left of a worker that has finished")
	}
	return err
}

// keys is what the keys of this run begin with.
func (b *Bench) keys() string { return "lab:" + b.Name + ":" }

// redisClient is another client of the shop's Redis. It is connected: the shop has little time for
// that, and a busy machine may need more.
func (b *Bench) redisClient(ctx context.Context) (redis.UniversalClient, error) {
	var client redis.UniversalClient
	switch shop := b.Redis.(type) {
	case *redis.ClusterClient:
		client = redis.NewClusterClient(shop.Options())
	case *redis.Client:
		options := *shop.Options()
		options.MaxRetries = -1 // as redisclient.Open has it: read back it is 0, and that would be the library's 3
		client = redis.NewClient(&options)
	default:
		return nil, fmt.Errorf("there is no way to open another client like %T", shop)
	}
	b.OnEnd(func() { _ = client.Close() })
	return client, Until(ctx, "Redis to answer", func(ctx context.Context) (bool, error) {
		return client.Ping(ctx).Err() == nil, nil
	})
}

// deadRedis is a client whose Redis is down. The shop's is left alone.
func (b *Bench) deadRedis() redis.UniversalClient {
	client := redis.NewClient(&redis.Options{Addr: "down.example:6379", MaxRetries: -1, DialerRetries: 1,
		Dialer: func(context.Context, string, string) (net.Conn, error) { return nil, errRedisDown }})
	b.OnEnd(func() { _ = client.Close() })
	return client
}

var errRedisDown = errors.New("connection refused")

// redisPen draws a worker's commands, of which every key belongs to the run.
type redisPen struct{ *worker }

func (p redisPen) DialHook(next redis.DialHook) redis.DialHook { return next }

func (p redisPen) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (p redisPen) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		err := p.inTurn(ctx, command, next)
		p.reach(ctx, "after "+command.Name())
		return err
	}
}

// inTurn lets the run's commands be drawn in the order in which Redis saw them.
func (p redisPen) inTurn(ctx context.Context, command redis.Cmder, next redis.ProcessHook) error {
	p.bench.commands.Lock()
	defer p.bench.commands.Unlock()
	err := next(ctx, command)
	p.draw(ctx, command, err)
	return err
}

func (p redisPen) draw(ctx context.Context, command redis.Cmder, err error) {
	text, ours := redisText(command.Args(), p.bench.keys())
	switch {
	case !ours || redis.HasErrorPrefix(err, "NOSCRIPT"): // the client then sends the script itself
	case err != nil && !errors.Is(err, redis.Nil):
		p.bench.Loses(ctx, p.actor, RedisBox, "%s", text)
	default:
		_, result, _ := strings.Cut(command.String(), ": ")
		if err != nil {
			result = "nil"
		}
		if result == "done" {
			p.bench.Stops(ctx, RedisBox, "%s: done", text)
			return
		}
		p.bench.Says(ctx, p.actor, RedisBox, "%s: %s", text, redisResult(result))
	}
}

// redisText is a command as its reader would type it; ours reports whether its key begins with the
// prefix.
func redisText(args []any, prefix string) (text string, ours bool) {
	words := make([]string, len(args))
	for i, arg := range args {
		words[i] = fmt.Sprint(arg)
		if strings.HasPrefix(words[i], prefix) {
			kind, id, _ := strings.Cut(words[i][len(prefix):], ":")
			words[i], ours = kind+":"+short(id), true
		} else if i > 2 {
			words[i] = strings.ToUpper(words[i])
		}
	}
	switch name := words[0]; {
	case strings.HasPrefix(name, "eval") && len(words) == 6 && words[5] == "0": // the script of dedup.Claim
		return "if still mine: DEL " + words[3], ours
	case strings.HasPrefix(name, "eval") && len(words) == 6:
		return "if still mine: SET " + words[3] + " done", ours
	case name == "set" && len(words[2]) == 26:
		words[2] = "token"
	}
	words[0] = strings.ToUpper(words[0])
	return strings.Join(words, " "), ours
}

func redisResult(result string) string {
	switch {
	case result == "-1ns":
		return "-1 (never expires)"
	case result == "true":
		return "1"
	case result == "false":
		return "0"
	case len(result) == 26:
		return "another's token"
	}
	return result
}

// queries are the texts of the queries that are drawn. Those of the shop have their names in sqlc.
var queries = map[string]string{
	"ClaimReceipt":    "claim the receipt's row",
	"ScheduleReceipt": "leave the row to the next sender",
	"MarkReceiptSent": "record it as sent",
	"ClaimUnsent":     "claim the unsent event",
	"MarkSent":        "mark it as published",
	"SELECT":          "SELECT the unsent event",
	"UPDATE":          "UPDATE: mark it as published",
}

// sqlPen draws a worker's queries.
type sqlPen struct{ *worker }

type queryName struct{}

func (p sqlPen) TraceQueryStart(ctx context.Context, _ *pgx.Conn, query pgx.TraceQueryStartData) context.Context {
	words := strings.Fields(query.SQL)
	name := words[0]
	if name == "--" {
		name = words[2]
	}
	p.reach(ctx, "before "+name)
	return context.WithValue(ctx, queryName{}, name)
}

func (p sqlPen) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, query pgx.TraceQueryEndData) {
	name, _ := ctx.Value(queryName{}).(string)
	text, drawn := queries[name]
	switch rows := query.CommandTag.RowsAffected(); {
	case !drawn || query.Err != nil:
	case rows > 0:
		p.bench.Says(ctx, p.actor, Database, "%s: %d row", text, rows)
	case name == "ClaimReceipt", name == "ScheduleReceipt":
		p.bench.Stops(ctx, Database, "%s: 0 rows", text)
	}
	p.reach(ctx, "after "+name)
}
