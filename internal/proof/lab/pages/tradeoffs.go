package pages

import "github.com/onceshop/onceshop/internal/proof/lab"

// strategy is a strategy as the pages present it.
type strategy struct {
	ID                                     lab.Strategy
	Name, Scope, Remembers, Needs, GoodFor string
}

var strategies = []strategy{
	{lab.Unique, "UNIQUE key", "every node that shares the database",
		"for ever: the key is a column of the row it protects",
		"only the database you have", "what must be right: orders, charges, stock, receipts"},
	{lab.Memory, "Memory", "one process", "until it restarts, the time is over or the room is used up",
		"nothing", "sparing work: imports, a double click that meets the same node"},
	{lab.Redis, "Redis claim", "every node that shares the Redis",
		"until the lease or the time to live is over, or Redis loses it",
		"a Redis that evicts nothing", "agreeing which node does slow work outside: sending a receipt"},
	{lab.Broker, "Broker", "one stream", "for the duplicate window, counted from the first publish",
		"a broker that compares message ids", "a publisher that repeats itself: the relay of the outbox"},
}

// tradeOff is a strategy with what its decisions took.
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
