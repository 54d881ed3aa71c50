package notify

import (
	"sync"
	"time"
)

const (
	// suspicion is how many mails in a row have unclear trouble before it counts as the server's.
	suspicion = 5
	// The pauses of a circuit grow from minHold to maxHold. A mail server that is back gets mail
	// within maxHold.
	minHold = time.Second
	maxHold = 15 * time.Second
)

// circuit holds all mail back while the mail server takes none. It closes by itself: after each
// pause one mail goes out to try. The zero circuit is closed.
type circuit struct {
	mu       sync.Mutex
	troubles int           // unclear ones since a mail went well
	hold     time.Duration // 0 if the circuit is closed
	until    time.Time     // no mail goes out before
	probing  bool          // a mail is out to try
}

// closed reports whether mail goes out as it comes.
func (c *circuit) closed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hold == 0
}

// ready reports whether allow would let a mail go out.
func (c *circuit) ready() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hold == 0 || !time.Now().Before(c.until)
}

// allow lets a mail go out, whose result the caller must report.
func (c *circuit) allow() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.hold == 0 {
		return true
	}
	if now.Before(c.until) {
		return false
	}
	c.until, c.probing = now.Add(SendTimeout), true
	return true
}

// worked closes the circuit: the server takes mail from the shop.
func (c *circuit) worked() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.troubles, c.hold, c.probing = 0, 0, false
}

// skipped reports a mail that did not reach the server: another one may try.
func (c *circuit) skipped() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.probing {
		c.probing, c.until = false, time.Now()
	}
}

// failed reports trouble that is the server's for certain, or perhaps. It returns true if the
// server, and not the message, is to blame.
func (c *circuit) failed(certain bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.troubles++
	switch {
	case c.hold == 0 && !certain && c.troubles < suspicion:
		return false
	case c.hold == 0:
		c.hold = minHold
	case c.probing:
		c.hold, c.probing = min(2*c.hold, maxHold), false
	}
	c.until = time.Now().Add(c.hold)
	return true
}
