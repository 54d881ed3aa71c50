package dedup_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/redisclient"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// soon bounds every wait, on a busy machine.
const soon = 20 * time.Second

// eachRedis runs the test against the small Redis that the demo uses and a real one.
func eachRedis(t *testing.T, test func(t *testing.T, url string)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		test(t, shoptest.Miniredis(t))
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
	return client.(redis.UniversalClient) //nolint:forcetypeassert // Open makes no other
}

// patientClient has time limits for a busy machine.
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

// A caller that goes on without Redis finishes a zero Claim.
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

// wantQuickDoubt fails unless every call returns an error that leaves the decision to the database.
// Only the fastest call has to meet the limit: on a busy machine any call can wait for the
// processor.
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

func TestClaimWhoseReplyIsLost(t *testing.T) {
	t.Parallel()
	eachRedis(t, func(t *testing.T, url string) {
		lossy := startLossy(t, url)
		client := redisClient(t, lossy.url)
		shoptest.Eventually(t, soon, "Redis is connected", func() bool { return client.Ping(t.Context()).Err() == nil })
		claims := dedup.NewClaims(client, "test:").Patient()
		lossy.loseNext.Store(true)
		_, err := claims.Claim(t.Context(), "work", time.Minute)
		if err == nil || errors.Is(err, dedup.ErrBusy) || errors.Is(err, dedup.ErrDone) {
			t.Errorf("got %v; it is unknown whether the claim is ours", err)
		}
		if sent := lossy.sets.Load(); sent != 1 {
			t.Errorf("the command was sent %d times, want once", sent)
		}
		wantClaimError(t, patientClaims(t, url), "work", dedup.ErrBusy) // the server has it
	})
}

// A Cluster's client repeats commands whatever its options. The repeat finds its own claim.
func TestClaimThatAClusterRepeats(t *testing.T) {
	t.Parallel()
	lossy := startLossyCluster(t)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{lossy.addr}, MaxRetries: -1,
		DialTimeout: soon})
	t.Cleanup(func() { _ = client.Close() })
	claims := dedup.NewClaims(client, "test:").Patient()
	shoptest.Eventually(t, soon, "the cluster is up", func() bool {
		_, err := claims.Claim(t.Context(), "probe", time.Minute)
		return err == nil || errors.Is(err, dedup.ErrBusy)
	})
	before := lossy.sets.Load()
	lossy.loseNext.Store(true)
	claim := mustClaim(t, claims, "work", time.Minute)
	if sent := lossy.sets.Load() - before; sent != 2 {
		t.Errorf("the command was sent %d times, want 2, or this tests nothing", sent)
	}
	wantClaimError(t, claims, "work", dedup.ErrBusy)
	if err := claim.Done(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	wantClaimError(t, claims, "work", dedup.ErrDone)
}

// lossy is a proxy in front of Redis that can lose the reply to a SET, which the server has done.
type lossy struct {
	url, addr string
	sets      atomic.Int64
	loseNext  atomic.Bool
}

func startLossy(t *testing.T, url string) *lossy {
	t.Helper()
	server := addrOf(t, url)
	proxy := shoptest.StartProxy(t, server)
	l := &lossy{url: strings.Replace(url, server, proxy.Addr(), 1), addr: proxy.Addr()}
	proxy.OnSend(func(sent []byte) shoptest.Fate {
		if !bytes.Contains(bytes.ToLower(sent), []byte("\r\nset\r\n")) {
			return shoptest.Pass
		}
		l.sets.Add(1)
		if l.loseNext.CompareAndSwap(true, false) {
			return shoptest.LoseAnswer
		}
		return shoptest.Pass
	})
	return l
}

// startLossyCluster starts a Redis Cluster of one node, whose clients reach it through the proxy.
func startLossyCluster(t *testing.T) *lossy {
	t.Helper()
	_, busPort, err := net.SplitHostPort(shoptest.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	url := shoptest.StartRedis(t, "--cluster-enabled", "yes", "--cluster-port", busPort).URL()
	lossy := startLossy(t, url)
	host, port, err := net.SplitHostPort(lossy.addr)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{Addr: addrOf(t, url)})
	defer client.Close()
	for _, err := range []error{
		client.ConfigSet(t.Context(), "cluster-announce-ip", host).Err(),
		client.ConfigSet(t.Context(), "cluster-announce-port", port).Err(),
		client.ClusterAddSlotsRange(t.Context(), 0, 16383).Err(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return lossy
}

func addrOf(t *testing.T, url string) string {
	t.Helper()
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	return options.Addr
}
