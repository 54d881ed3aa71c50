package embedded

import (
	"net/url"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func redisClient(t *testing.T, url string) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestRedisForgets(t *testing.T) {
	t.Parallel()
	r, err := StartRedis()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	ctx, client := deadline(t), redisClient(t, r.URL())

	begun := time.Now()
	const life = 400 * time.Millisecond
	if err := client.Set(ctx, "brief", 1, life).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.Set(ctx, "lasting", 1, 0).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the key is gone", func() bool { return client.Exists(ctx, "brief").Val() == 0 })
	if lived := time.Since(begun); lived < life-redisTick {
		t.Errorf("the key lived %s, want about %s", lived, life)
	}
	if client.Exists(ctx, "lasting").Val() != 1 {
		t.Error("a key without a time to live is gone")
	}
}

func TestRedisNeedsThePassword(t *testing.T) {
	t.Parallel()
	r, err := StartRedis()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	bare, err := url.Parse(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	bare.User = nil
	if err := redisClient(t, bare.String()).Ping(deadline(t)).Err(); err == nil {
		t.Error("a client without the password got in")
	}
	r.Stop()
	r.Stop()
}
