// Package dedup implements the four strategies against duplicates. It contains no business rules:
// the packages that use it decide what a key means.
//
//	strategy     stops                         remembers in   forgets after       if it fails
//	1 unique.go  a second effect of a key      Postgres rows  never               no effect
//	2 memory.go  work this process has done    this process   TTL, size, restart  go on to 1
//	3 redis.go   two nodes at work at once     Redis          lease, then TTL     go on to 1
//	4 broker.go  a second copy in the stream   JetStream      duplicate window    consumers guard
//
// Only the first decides, and it covers effects inside the database. The others save work: without
// them, every result is the same. Strategy 4 does not cover the effects of a consumer, which can
// receive one copy twice.
//
// Other brokers remember otherwise. Azure Service Bus compares ids and never tells; Apache Pulsar
// compares a number with the highest of a producer's name, and drops a new event with a lower one.
// See docs/brokers.md.
package dedup
