package dedup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// What a lost claim means.
var (
	// ErrBusy reports that another node holds the claim: wait for its lease, then try again.
	ErrBusy = errors.New("dedup: another node is working on it")
	// ErrDone reports that the work is finished and recorded.
	ErrDone = errors.New("dedup: the work is done")
)

const (
	// done can be no token: those have 26 characters.
	done = "done"
	// redisBudget is all the time that one step may spend here before the database is asked without it.
	redisBudget = 100 * time.Millisecond
)

// Claims lets the nodes of a service agree, through Redis, on who does a piece of outside work. Every
// error but ErrBusy and ErrDone means "Redis does not know": the caller goes on and lets the database decide.
type Claims struct {
	client redis.UniversalClient
	prefix string
	budget time.Duration // of each step
}

// NewClaims keeps its keys under prefix.
func NewClaims(client redis.UniversalClient, prefix string) *Claims {
	return &Claims{client: client, prefix: prefix, budget: redisBudget}
}

// NewRedisClient opens a client fit for claims: it spends no time on repeating a command or a failed connection.
// Several hosts, separated by commas, are a Cluster, or with ?master_name=NAME the Sentinels of that master.
func NewRedisClient(address string) (redis.UniversalClient, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, errRedisURL
	}
	query := u.Query()
	master := query.Get("master_name")
	query.Del("master_name")
	u.RawQuery = query.Encode()
	var options *redis.Options
	addrs := strings.Split(u.Host, ",")
	for i := range addrs {
		u.Host = addrs[i]
		if options, err = redis.ParseURL(u.String()); err != nil {
			return nil, errRedisURL
		}
		addrs[i] = options.Addr
	}
	if options.TLSConfig != nil {
		options.TLSConfig.ServerName = "" // each host is checked against its own name
	}
	// Every failure reaches a caller, who logs it; the library's own lines would repeat it without structure.
	logging.Disable()
	return redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: addrs, MasterName: master, DB: options.DB, Username: options.Username, Password: options.Password, TLSConfig: options.TLSConfig,
		MaxRetries: -1, DialerRetries: 1, DialTimeout: redisBudget, ContextTimeoutEnabled: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}), nil
}

// The parser's own errors can quote a password whose special characters were not escaped.
var errRedisURL = errors.New("REDIS_URL is not an address such as redis://user:password@host:6379/0 (several hosts are separated by commas)")

// Claim is the right to do the work until the lease ends. The token tells this claim from a later one of another node.
type Claim struct {
	claims *Claims
	key    string
	token  string
}

// Claim takes the work named key for the length of lease, which must be longer than the work can take.
// It is one SET … NX PX: with SETNX and EXPIRE as two commands, a crash between them leaves a key that never ends.
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
	// The holder can be this very claim: a Cluster's client repeats a SET whose answer was lost, and the repeat meets its own token.
	holder, err := c.client.Get(ctx, claim.key).Result()
	switch {
	case err == nil && holder == claim.token:
		return claim, nil
	case err == nil && holder == done:
		return Claim{}, ErrDone
	case err == nil, errors.Is(err, redis.Nil):
		return Claim{}, ErrBusy
	default:
		return Claim{}, fmt.Errorf("read the claim in Redis: %w", err)
	}
}

// finishScript replaces the claim by its end (or deletes it) only while it is still this holder's: after the lease, the key may be another's.
var finishScript = redis.NewScript(`
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == "0" then return redis.call("DEL", KEYS[1]) end
redis.call("SET", KEYS[1], "` + done + `", "PX", ARGV[2])
return 1`)

// Done marks the work as finished for the time keep. Call it after the result is recorded in the
// database: marked before, a crash would lose the work.
func (c Claim) Done(ctx context.Context, keep time.Duration) error {
	return c.finish(ctx, keep)
}

// Release gives the work back after a try that failed for certain.
func (c Claim) Release(ctx context.Context) error {
	return c.finish(ctx, 0)
}

func (c Claim) finish(ctx context.Context, keep time.Duration) error {
	if c.claims == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.claims.budget)
	defer cancel()
	if err := finishScript.Run(ctx, c.claims.client, []string{c.key}, c.token, keep.Milliseconds()).Err(); err != nil {
		return fmt.Errorf("finish the claim in Redis: %w", err)
	}
	return nil
}
