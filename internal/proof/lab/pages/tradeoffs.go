package pages

import "github.com/onceshop/onceshop/internal/proof/lab"

// strategy is a strategy as pages and docs present it.
type strategy struct {
	ID lab.Strategy
	// Name is a noun, Sentence all that a card has room for.
	Name, Sentence string
	// Scope is where a twin is stopped, Forgets when it gets through again, Authority whether the
	// shop relies on it, Cost what it takes to have.
	Scope, Forgets, Authority, Cost string
}

var strategies = []strategy{
	{ID: lab.Unique, Name: "UNIQUE key",
		Sentence: "The second row does not fit, so the database refuses it.",
		Scope:    "every node on the same database",
		Forgets:  "never: the key is a column of the row that it protects",
		Authority: "yes: it decides on orders, charges, refunds, stock movements, provider events, deliveries and " +
			"receipts",
		Cost: "an index entry per row; the round trip is that of the INSERT"},
	{ID: lab.Memory, Name: "Memory",
		Sentence:  "A process recognizes what it has just seen, until it forgets.",
		Scope:     "one process",
		Forgets:   "at a restart, after the TTL, when the memory is full",
		Authority: "no: it saves queries",
		Cost:      "memory; no server and no round trip"},
	{ID: lab.Redis, Name: "Redis claim",
		Sentence:  "All nodes share one claim, and it ends with its lease.",
		Scope:     "every node on the same Redis",
		Forgets:   "after the lease or the TTL, at a flush, an eviction or a failover",
		Authority: "no: it keeps a second node from slow work, such as sending a mail",
		Cost:      "a server to operate; a round trip to claim and one to finish"},
	{ID: lab.Broker, Name: "Broker",
		Sentence:  "The stream drops a message id that it has seen, within its window.",
		Scope:     "publishers to one stream; a consumer needs a guard of its own",
		Forgets:   "after the duplicate window, counted from the first publish",
		Authority: "no: it keeps second copies out of the stream, not second deliveries",
		Cost:      "a broker that compares ids; no round trip besides the publish"},
}

// tradeOff is a strategy with how long its decisions took.
type tradeOff struct {
	strategy
	Latency []lab.Latency
}

func tradeOffs(measured []lab.Latency) []tradeOff {
	table := make([]tradeOff, len(strategies))
	for i, s := range strategies {
		table[i].strategy = s
		for _, l := range measured {
			if l.Strategy == s.ID {
				table[i].Latency = append(table[i].Latency, l)
			}
		}
	}
	return table
}
