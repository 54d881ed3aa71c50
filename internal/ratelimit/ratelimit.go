// Package ratelimit bounds how often one client may ask this node. A guest is known by the address
// of the connection, whoever has a valid token by the token. It protects the node, and decides
// nothing: another node counts for itself. See docs/decisions.md, D50.
package ratelimit

import (
	"crypto/sha256"
	"errors"
	"net/netip"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"
)

const (
	// burstSeconds is how many seconds' worth may come at once: a page with its forms, a batch, a
	// flash sale from one office.
	burstSeconds = 5
	// maxClients bounds the memory. Who is forgotten for others starts with a full burst.
	maxClients = 100_000
	// idle is longer than the time in which a bucket fills, so that forgetting one changes nothing.
	idle = time.Minute
)

// ErrTooMany reports a request that comes too soon after others of its client.
var ErrTooMany = errors.New("ratelimit: too many requests of one client")

// Limiter counts the requests of each client. A nil *Limiter lets everything pass.
type Limiter struct {
	guests *otter.Cache[netip.Prefix, *rate.Limiter]
	tokens *otter.Cache[tokenID, *rate.Limiter]

	perGuest, perToken int
}

// tokenID stands for a token, so that no secret is kept.
type tokenID [sha256.Size]byte

// New lets a guest and a token ask so many times a second, and five seconds' worth at once. Zero is
// no limit.
func New(perGuest, perToken int) *Limiter {
	return &Limiter{guests: buckets[netip.Prefix](), tokens: buckets[tokenID](), perGuest: perGuest, perToken: perToken}
}

func buckets[K comparable]() *otter.Cache[K, *rate.Limiter] {
	return otter.Must(&otter.Options[K, *rate.Limiter]{MaximumSize: maxClients,
		ExpiryCalculator: otter.ExpiryAccessing[K, *rate.Limiter](idle)})
}

func bucket(perSecond int) *rate.Limiter {
	if perSecond == 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(perSecond), burstSeconds*perSecond)
}

// Guest counts a request from the address, and returns ErrTooMany if it is one too many.
func (l *Limiter) Guest(address string) error {
	if l == nil || l.perGuest == 0 {
		return nil
	}
	of := network(address)
	found, ok := l.guests.GetIfPresent(of)
	if !ok {
		found, _ = l.guests.SetIfAbsent(of, bucket(l.perGuest))
	}
	return take(found)
}

// network is what an address may change at will: the host part of IPv6 is as good as random.
func network(address string) netip.Prefix {
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

// Token counts a request with a token, and returns ErrTooMany if it is one too many. A token that
// was not accepted lately may be a guess, so it counts as a guest's request, before anybody looks
// it up.
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

// Accepted says that the token is a customer's.
func (l *Limiter) Accepted(token string) {
	if l == nil {
		return
	}
	of := tokenID(sha256.Sum256([]byte(token)))
	if _, ok := l.tokens.GetIfPresent(of); !ok {
		l.tokens.SetIfAbsent(of, bucket(l.perToken))
	}
}

// Close ends the upkeep in the background. The limiter must not be used any more.
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
