// Package ratelimit limits the requests of one client to this node. It identifies a guest by the
// address and a customer by a valid token. It only protects the node: each node counts on its own.
// See docs/decisions.md, D50.
package ratelimit

import (
	"crypto/sha256"
	"errors"
	"net/netip"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"

	"github.com/onceshop/onceshop/internal/bounded"
)

const (
	// burstSeconds is the size of a burst, in seconds' worth of requests: enough for a page with
	// its forms, a batch, or a flash sale from one office.
	burstSeconds = 5
	// maxClients bounds the memory. A client that is evicted starts again with a full burst.
	maxClients = 100_000
	// idle is longer than the time in which a bucket fills, so evicting an idle one changes
	// nothing.
	idle = time.Minute
)

// ErrTooMany reports a request over the client's limit.
var ErrTooMany = errors.New("ratelimit: too many requests of one client")

// Limiter counts the requests of each client. A nil *Limiter allows everything.
type Limiter struct {
	guests bounded.Map[netip.Prefix, *rate.Limiter]
	tokens bounded.Map[tokenID, *rate.Limiter]

	perGuest, perToken int
}

// tokenID is the hash of a token, so that the limiter keeps no secrets.
type tokenID [sha256.Size]byte

// New returns a limiter with these requests per second for a guest and for a token, and bursts of
// five seconds' worth. Zero means no limit.
func New(perGuest, perToken int) *Limiter {
	return &Limiter{guests: buckets[netip.Prefix](), tokens: buckets[tokenID](), perGuest: perGuest, perToken: perToken}
}

func buckets[K comparable]() bounded.Map[K, *rate.Limiter] {
	return otter.Must(&otter.Options[K, *rate.Limiter]{MaximumSize: maxClients,
		ExpiryCalculator: otter.ExpiryAccessing[K, *rate.Limiter](idle)})
}

func bucket(perSecond int) *rate.Limiter {
	if perSecond == 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(perSecond), burstSeconds*perSecond)
}

// Guest counts a request from the address. It returns ErrTooMany if the request is over the limit.
func (l *Limiter) Guest(address string) error {
	if l == nil || l.perGuest == 0 {
		return nil
	}
	of := Network(address)
	found, ok := l.guests.GetIfPresent(of)
	if !ok {
		found, _ = l.guests.SetIfAbsent(of, bucket(l.perGuest))
	}
	return take(found)
}

// Network returns the network to count the address under. For IPv6 it is the /64, because a client
// can choose the rest of the address freely.
func Network(address string) netip.Prefix {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.Unmap()
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	of, err := ip.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return of
}

// Token counts a request with a token. It returns ErrTooMany if the request is over the limit. A
// token that was not accepted lately may be a guess, so it counts as a guest's request.
func (l *Limiter) Token(address, token string) error {
	if l == nil {
		return nil
	}
	found, ok := l.tokens.GetIfPresent(sha256.Sum256([]byte(token)))
	if !ok {
		return l.Guest(address)
	}
	return take(found)
}

// Accepted records that the token is valid.
func (l *Limiter) Accepted(token string) {
	if l == nil {
		return
	}
	of := tokenID(sha256.Sum256([]byte(token)))
	if _, ok := l.tokens.GetIfPresent(of); !ok {
		l.tokens.SetIfAbsent(of, bucket(l.perToken))
	}
}

// Close stops the background work. The limiter must not be used afterwards.
func (l *Limiter) Close() {
	l.guests.StopAllGoroutines()
	l.tokens.StopAllGoroutines()
}

func take(from *rate.Limiter) error {
	if from.Allow() {
		return nil
	}
	return ErrTooMany
}
