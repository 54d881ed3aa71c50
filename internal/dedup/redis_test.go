package dedup_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/demo/embedded"
	"github.com/onceshop/onceshop/internal/redisclient"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// soon bounds what must happen, on any machine.
const soon = 20 * time.Second

// eachRedis runs the test against the Redis of the demo and a real one.
func eachRedis(t *testing.T, test func(t *testing.T, url string)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		server, err := embedded.StartRedis()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Stop)
		test(t, server.URL())
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		test(t, shoptest.Redis(t))
	})
}

func redisClient(t *testing.T, url string) redis.UniversalClient {
	t.Helper()
	client, err := redisclient.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// patientClient has the time that a busy machine may need, also to connect.
func patientClient(t testing.TB, url string) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	options.MaxRetries, options.DialTimeout, options.ReadTimeout = -1, soon, soon
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func patientClaims(t testing.TB, url string) *dedup.Claims {
	t.Helper()
	return dedup.NewClaims(patientClient(t, url), "test:").Patient()
}

func mustClaim(t testing.TB, claims *dedup.Claims, key string, lease time.Duration) dedup.Claim {
	t.Helper()
	claim, err := claims.Claim(t.Context(), key, lease)
	if err != nil {
		t.Fatalf("claim %s: %v", key, err)
	}
	return claim
}

func wantClaimError(t *testing.T, claims *dedup.Claims, key string, want error) {
	t.Helper()
	if _, err := claims.Claim(t.Context(), key, time.Minute); !errors.Is(err, want) {
		t.Errorf("claim %s: %v, want %v", key, err, want)
	}
}

func TestClaimHasOneWinner(t *testing.T) {
	t.Parallel()
	eachRedis(t, func(t *testing.T, url string) {
		claims := patientClaims(t, url)
		errs := shoptest.Race(50, func(int) error {
			_, err := claims.Claim(t.Context(), "work", time.Minute)
			return err
		})
		winners := 0
		for _, err := range errs {
			switch {
			case err == nil:
				winners++
			case !errors.Is(err, dedup.ErrBusy):
				t.Errorf("a loser got %v, want ErrBusy", err)
			}
		}
		if winners != 1 {
			t.Errorf("%d winners", winners)
		}
	})
}

func TestClaimEnds(t *testing.T) {
	t.Parallel()
	eachRedis(t, func(t *testing.T, url string) {
		claims := patientClaims(t, url)

		claim := mustClaim(t, claims, "done", time.Minute)
		if err := claim.Done(t.Context(), time.Minute); err != nil {
			t.Fatal(err)
		}
		wantClaimError(t, claims, "done", dedup.ErrDone)
		if err := claim.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantClaimError(t, claims, "done", dedup.ErrDone)

		claim = mustClaim(t, claims, "released", time.Minute)
		wantClaimError(t, claims, "released", dedup.ErrBusy)
		if err := claim.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustClaim(t, claims, "released", time.Minute)

		claim = mustClaim(t, claims, "kept briefly", time.Minute)
		if err := claim.Done(t.Context(), 50*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		shoptest.Eventually(t, soon, "what was done is forgotten after its time", func() bool {
			_, err := claims.Claim(t.Context(), "kept briefly", time.Minute)
			return err == nil
		})
	})
}

func TestClaimIsTakenOverAfterItsLease(t *testing.T) {
	t.Parallel()
	eachRedis(t, func(t *testing.T, url string) {
		claims := patientClaims(t, url)
		for key, finish := range map[string]func(dedup.Claim) error{
			"a stale done":    func(c dedup.Claim) error { return c.Done(t.Context(), time.Minute) },
			"a stale release": func(c dedup.Claim) error { return c.Release(t.Context()) },
		} {
			stale := mustClaim(t, claims, key, 50*time.Millisecond)
			var holder dedup.Claim
			shoptest.Eventually(t, soon, "the lease ends", func() (ended bool) {
				var err error
				holder, err = claims.Claim(t.Context(), key, time.Minute)
				return err == nil
			})
			if err := finish(stale); err != nil {
				t.Errorf("%s: %v", key, err)
			}
			wantClaimError(t, claims, key, dedup.ErrBusy)
			if err := holder.Done(t.Context(), time.Minute); err != nil {
				t.Fatal(err)
			}
			wantClaimError(t, claims, key, dedup.ErrDone)
		}
	})
}

func TestClaimsOfAnotherPrefix(t *testing.T) {
	t.Parallel()
	eachRedis(t, func(t *testing.T, url string) {
		claims := patientClaims(t, url)
		others := dedup.NewClaims(patientClient(t, url), "other:").Patient()
		mustClaim(t, claims, "work", time.Minute)
		claim := mustClaim(t, others, "work", time.Minute)
		if err := claim.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantClaimError(t, claims, "work", dedup.ErrBusy)
	})
}

// A node that goes on without Redis has a Claim of zero value to finish.
func TestNoClaim(t *testing.T) {
	t.Parallel()
	var none dedup.Claim
	if err := errors.Join(none.Done(t.Context(), time.Minute), none.Release(t.Context())); err != nil {
		t.Error(err)
	}
}

func TestRedisThatForgot(t *testing.T) {
	t.Parallel()
	server := shoptest.StartRedis(t)
	claims := patientClaims(t, server.URL())
	flushed := mustClaim(t, claims, "flushed", time.Minute)
	server.FlushAll()
	mustClaim(t, claims, "flushed", time.Minute)
	if err := flushed.Done(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	wantClaimError(t, claims, "flushed", dedup.ErrBusy)

	restarted := mustClaim(t, claims, "restarted", time.Minute)
	server.Restart()
	// The pool still holds connections to the server that is gone.
	shoptest.Eventually(t, soon, "the claim ends on the new server", func() bool {
		return restarted.Done(t.Context(), time.Minute) == nil
	})
	mustClaim(t, claims, "restarted", time.Minute)
}

// wantQuickDoubt fails unless every call returns an error that leaves the decision to the database,
// and the fastest in time: on a busy machine any single one may have to wait for the processor.
func wantQuickDoubt(t *testing.T, limit time.Duration, call func() error) {
	t.Helper()
	const calls = 5
	took := make([]time.Duration, calls)
	for i := range took {
		begun := time.Now()
		err := call()
		took[i] = time.Since(begun)
		if err == nil || errors.Is(err, dedup.ErrBusy) || errors.Is(err, dedup.ErrDone) {
			t.Errorf("a Redis that does not answer gives %v", err)
		}
	}
	if fastest := slices.Min(took); fastest > limit {
		t.Errorf("the error took %s, want at most %s", fastest, limit)
	}
}

func TestRedisIsDown(t *testing.T) {
	t.Parallel()
	server := shoptest.StartRedis(t)
	claim := mustClaim(t, patientClaims(t, server.URL()), "held", time.Minute)
	claims := dedup.NewClaims(redisClient(t, server.URL()), "")
	server.Kill()
	const atOnce = 50 * time.Millisecond // the refusal is an answer
	wantQuickDoubt(t, atOnce, func() error {
		_, err := claims.Claim(t.Context(), "work", time.Minute)
		return err
	})
	claim = claim.In(claims)
	wantQuickDoubt(t, atOnce, func() error { return claim.Done(t.Context(), time.Minute) })
	wantQuickDoubt(t, atOnce, func() error { return claim.Release(t.Context()) })
}

func TestRedisNeverAnswers(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() }) // the kernel accepts connections all the same
	const inTime = 150 * time.Millisecond
	claims := dedup.NewClaims(redisClient(t, "redis://"+listener.Addr().String()), "")
	wantQuickDoubt(t, inTime, func() error {
		_, err := claims.Claim(t.Context(), "work", time.Minute)
		return err
	})
	claim := dedup.Claim{}.In(claims)
	wantQuickDoubt(t, inTime, func() error { return claim.Done(t.Context(), time.Minute) })
	wantQuickDoubt(t, inTime, func() error { return claim.Release(t.Context()) })
}

func TestClaimHeedsItsContext(t *testing.T) {
	t.Parallel()
	claims := patientClaims(t, shoptest.Redis(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := claims.Claim(ctx, "work", time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	mustClaim(t, claims, "work", time.Minute)
}

func TestClaimWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	eachRedis(t, func(t *testing.T, url string) {
		proxy := startCutter(t, url, "")
		client := redisClient(t, proxy.url)
		shoptest.Eventually(t, soon, "Redis is connected", func() bool { return client.Ping(t.Context()).Err() == nil })
		claims := dedup.NewClaims(client, "test:").Patient()
		proxy.cut.Store(1)
		_, err := claims.Claim(t.Context(), "work", time.Minute)
		if err == nil || errors.Is(err, dedup.ErrBusy) || errors.Is(err, dedup.ErrDone) {
			t.Errorf("got %v; whether the claim is ours is not known", err)
		}
		if sent := proxy.sets.Load(); sent != 1 {
			t.Errorf("the command was sent %d times, want once", sent)
		}
		wantClaimError(t, patientClaims(t, url), "work", dedup.ErrBusy) // the server has it
	})
}

// A Cluster's client repeats commands whatever it is told. The repeat then finds the claim taken,
// by itself.
func TestClaimThatAClusterRepeats(t *testing.T) {
	t.Parallel()
	server, addr := startCluster(t)
	proxy := startCutter(t, server.URL(), addr)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{addr}, MaxRetries: -1, DialTimeout: soon})
	t.Cleanup(func() { _ = client.Close() })
	claims := dedup.NewClaims(client, "test:").Patient()
	shoptest.Eventually(t, soon, "the cluster is up", func() bool {
		_, err := claims.Claim(t.Context(), "probe", time.Minute)
		return err == nil || errors.Is(err, dedup.ErrBusy)
	})
	before := proxy.sets.Load()
	proxy.cut.Store(1)
	claim := mustClaim(t, claims, "work", time.Minute)
	if sent := proxy.sets.Load() - before; sent != 2 {
		t.Errorf("the command was sent %d times, want 2, or this tests nothing", sent)
	}
	wantClaimError(t, claims, "work", dedup.ErrBusy)
	if err := claim.Done(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	wantClaimError(t, claims, "work", dedup.ErrDone)
}

// startCluster starts a Redis that is a cluster of its own and tells its clients to come to addr,
// where nothing listens yet.
func startCluster(t *testing.T) (server *shoptest.RedisServer, addr string) {
	t.Helper()
	addr = shoptest.FreeAddr(t)
	server = shoptest.StartRedis(t, "--cluster-enabled", "yes", "--cluster-port", port(t, shoptest.FreeAddr(t)),
		"--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", port(t, addr))
	options, err := redis.ParseURL(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	if err := client.ClusterAddSlotsRange(t.Context(), 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	return server, addr
}

func port(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// cutter is a proxy in front of Redis that loses answers to SET: the server has done it, the client
// never hears.
type cutter struct {
	url  string
	sets atomic.Int64 // SETs passed on
	cut  atomic.Int64 // answers to lose
}

// startCutter listens on addr, or with "" on any free port, and passes on to the server at url.
func startCutter(t *testing.T, url, addr string) *cutter {
	t.Helper()
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{url: strings.Replace(url, options.Addr, listener.Addr().String(), 1)}
	var serving sync.WaitGroup
	ended := make(chan struct{})
	serving.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { c.serve(client, options.Addr, ended) })
		}
	})
	t.Cleanup(func() {
		close(ended)
		listener.Close()
		serving.Wait()
	})
	return c
}

func (c *cutter) serve(client net.Conn, to string, ended <-chan struct{}) {
	defer client.Close()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	var losing atomic.Bool
	var pumps sync.WaitGroup
	over := make(chan struct{}, 2)
	pumps.Go(func() {
		pump(server, client, func(sent []byte) bool {
			if bytes.Contains(bytes.ToLower(sent), []byte("\r\nset\r\n")) {
				c.sets.Add(1)
				losing.Store(c.cut.Add(-1) >= 0)
			}
			return true
		})
		over <- struct{}{}
	})
	pumps.Go(func() {
		pump(client, server, func([]byte) bool { return !losing.Load() })
		over <- struct{}{}
	})
	select {
	case <-over:
	case <-ended:
	}
	client.Close()
	server.Close()
	pumps.Wait()
}

// pump copies until either side ends or pass refuses what came.
func pump(to io.Writer, from io.Reader, pass func([]byte) bool) {
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil || !pass(buffer[:n]) {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
