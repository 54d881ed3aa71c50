package dedup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Errors of a claim that another caller has.
var (
	// ErrBusy reports that the work is in progress elsewhere. Try again after its lease.
	ErrBusy = errors.New("dedup: another node is working on it")
	// ErrDone reports that the work is finished and recorded.
	ErrDone = errors.New("dedup: the work is done")
)

const (
	// done is the value of a key whose work is finished. A token is longer.
	done = "done"
	// redisBudget bounds each step. After it the caller goes on without Redis.
	redisBudget = 100 * time.Millisecond
)

// RedisClient is the part of a client of one server, a Sentinel's master or a Cluster that claims
// need.
type RedisClient interface {
	redis.Scripter
	Get(ctx context.Context, key string) *redis.StringCmd
	SetArgs(ctx context.Context, key string, value any, a redis.SetArgs) *redis.StatusCmd
}

// Claims lets the nodes of a service agree on which one does a piece of work outside the database.
// It saves work and decides nothing: any error but ErrBusy and ErrDone means that Redis gave no
// answer, and the caller goes on to the database.
type Claims struct {
	client RedisClient
	prefix string
	budget time.Duration
}

// NewClaims returns claims whose keys begin with prefix.
func NewClaims(client RedisClient, prefix string) *Claims {
	return &Claims{client: client, prefix: prefix, budget: redisBudget}
}

// Claim is the right to do the work until its lease ends.
type Claim struct {
	claims *Claims
	key    string
	token  string
}

// Claim takes the work named key for the length of lease, which must exceed the time that the work
// can take. It is one command, SET … NX PX: a crash between SETNX and EXPIRE would leave a key that
// never ends.
func (c *Claims) Claim(ctx context.Context, key string, lease time.Duration) (Claim, error) {
	ctx, cancel := context.WithTimeout(ctx, c.budget)
	defer cancel()
	claim := Claim{claims: c, key: c.prefix + key, token: rand.Text()}
	err := c.client.SetArgs(ctx, claim.key, claim.token, redis.SetArgs{Mode: "NX", TTL: lease}).Err()
	if err == nil {
		return claim, nil
	}
	if !errors.Is(err, redis.Nil) {
		return Claim{}, fmt.Errorf("claim in Redis: %w", err)
	}
	holder, err := c.client.Get(ctx, claim.key).Result()
	switch {
	case err == nil && holder == claim.token:
		// A Cluster's client repeats a SET whose reply was lost, and the repeat meets its own
		// token.
		return claim, nil
	case err == nil && holder == done:
		return Claim{}, ErrDone
	case err == nil, errors.Is(err, redis.Nil):
		return Claim{}, ErrBusy
	default:
		return Claim{}, fmt.Errorf("read the claim in Redis: %w", err)
	}
}

// Done marks the work as finished for the time keep. Call it after the result is recorded in the
// database: marked before the work, a crash would lose it.
func (c Claim) Done(ctx context.Context, keep time.Duration) error {
	return c.finish(ctx, keep)
}

// Release gives the work back after it failed, so that the next caller need not wait for the lease.
func (c Claim) Release(ctx context.Context) error {
	return c.finish(ctx, 0)
}

// finishScript changes the key only while it holds this claim's token. After the lease, another
// node can hold the key: a plain DEL would end that node's claim.
var finishScript = redis.NewScript(`
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == "0" then return redis.call("DEL", KEYS[1]) end
redis.call("SET", KEYS[1], "` + done + `", "PX", ARGV[2])
return 1`)

func (c Claim) finish(ctx context.Context, keep time.Duration) error {
	if c.claims == nil { // the work went on without Redis
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.claims.budget)
	defer cancel()
	err := finishScript.Run(ctx, c.claims.client, []string{c.key}, c.token, keep.Milliseconds()).Err()
	if err != nil {
		return fmt.Errorf("finish the claim in Redis: %w", err)
	}
	return nil
}
