// Package redisclient opens Redis clients from REDIS_URL.
package redisclient

import (
	"cmp"
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/onceshop/onceshop/internal/dedup"
)

// dialTimeout is short because callers continue with the database if Redis does not answer.
const dialTimeout = 100 * time.Millisecond

// errURL replaces the parser's errors, which can contain the password.
var errURL = errors.New("REDIS_URL is not an address such as redis://user:password@host:6379/0 " +
	"(several hosts are separated by commas)")

// Client is what the shop needs of a client of one server, a Sentinel's master or a Cluster.
// redis.UniversalClient has all commands, and each package that knows it compiles most of go-redis
// again: see docs/decisions.md, D77.
type Client interface {
	dedup.RedisClient
	ConfigGet(ctx context.Context, parameter string) *redis.MapStringStringCmd
	Ping(ctx context.Context) *redis.StatusCmd
	Close() error
}

// Open returns a client that retries neither commands nor connections. Several hosts separated by
// commas are a Cluster or, with ?master_name=NAME, the Sentinels of that master, who may have a
// &sentinel_password and a &sentinel_username of their own. One host with ?cluster=true is a
// Cluster's endpoint. Open does not connect.
func Open(address string) (Client, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, errURL
	}
	query := u.Query()
	own := map[string]string{"master_name": "", "sentinel_username": "", "sentinel_password": "", "cluster": ""}
	for name := range own {
		own[name] = query.Get(name)
		query.Del(name)
	}
	cluster, err := strconv.ParseBool(cmp.Or(own["cluster"], "false"))
	if err != nil {
		return nil, errURL
	}
	u.RawQuery = query.Encode()
	var options *redis.Options
	addrs := strings.Split(u.Host, ",")
	for i := range addrs {
		u.Host = addrs[i]
		if options, err = redis.ParseURL(u.String()); err != nil {
			return nil, errURL
		}
		addrs[i] = options.Addr
	}
	if options.TLSConfig != nil {
		options.TLSConfig.ServerName = "" // check each host against its own name
	}
	// Callers log every error; the library would log it again, without structure.
	logging.Disable()
	client := newClient(&redis.UniversalOptions{
		Addrs: addrs, MasterName: own["master_name"], IsClusterMode: cluster, DB: options.DB,
		SentinelUsername: own["sentinel_username"], SentinelPassword: own["sentinel_password"],
		Username: options.Username, Password: options.Password, TLSConfig: options.TLSConfig,
		MaxRetries: -1, DialerRetries: 1, DialTimeout: dialTimeout, ContextTimeoutEnabled: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	client.AddHook(traced{})
	return client, nil
}

// reloadEvery is how often a Cluster's client looks for new masters. After a fail-over no server
// tells it of one, and the library's own interval is a minute.
const reloadEvery = 5 * time.Second

func newClient(options *redis.UniversalOptions) redis.UniversalClient {
	if options.MasterName == "" && (len(options.Addrs) > 1 || options.IsClusterMode) {
		cluster := options.Cluster()
		cluster.ClusterStateReloadInterval = reloadEvery
		return redis.NewClusterClient(cluster)
	}
	return redis.NewUniversalClient(options)
}
