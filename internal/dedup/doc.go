// Package dedup holds the four strategies against duplicates as mechanisms. It knows no
// business word; the packages that use it decide what a key means.
//
//	strategy            stops                                  remembers in     forgets after        fails how                                     not for
//	1 unique.go         a second effect of one key             Postgres rows    never                closed: no database, no effect                effects outside the database
//	2 memory.go         work already done by this process      this process     TTL, size, restart   open: the twin goes on to the database        anything that must hold
//	3 redis.go          two nodes sending at once              Redis            lease, then TTL      open: the caller goes on to the database      authority of any kind
//	4 broker.go         a second copy in the stream            JetStream        duplicate window     open: consumers keep their own guard          effects of a consumer
//
// Only the first decides. The other three save work, and everything stays right without them.
package dedup
