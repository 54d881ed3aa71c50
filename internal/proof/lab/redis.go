package lab

var (
	// redisActors are the columns of every experiment with receipts.
	redisActors = []Actor{NodeA, NodeB, RedisBox, Database, Mailbox}
	// receiptCode is where the shop decides that a receipt is sent.
	receiptCode = []string{"internal/notify/notify.go:Service.HandlePaid",
		"internal/notify/notify.go:Service.sendOnce", "internal/dedup/redis.go:Claims.Claim"}
)

func redisExperiments() []Experiment {
	return []Experiment{twoNodes(), crashBeforeExpire(), markedBeforeTheWork(), shortTTLs(), flushed(), redisDown()}
}

func twoNodes() Experiment {
	return Experiment{
		ID: "redis-two-nodes", Strategy: Redis, Fault: "Two nodes at once",
		Story: "Both nodes get the paid event in the same moment. The mail server is slow, so both are surely at " +
			"work at once.",
		Why: "Redis runs one command at a time: of two SET … NX for the same key exactly one finds it absent, " +
			"whichever node sends it. " +
			"While Redis is up and remembers, that is all it takes, and the naive twin holds. " +
			"The trap is in what the loser concludes, because the key says that somebody began and not that " +
			"somebody finished. " +
			"The naive loser takes it for done and drops the event. " +
			"The guarded loser is told that another is at it and comes again, until the key says done, which the " +
			"winner writes after the receipt's row.",
		Actors: redisActors,
		Naive: Twin{Title: "SET NX with a TTL", Expect: Holds, Run: redisTwoNodesNaive,
			Code: []string{"internal/proof/lab/redis_naive.go:naiveSender.sendOnce"}},
		Guarded: Twin{Title: "a claim, and the row behind it", Expect: Holds, Run: redisTwoNodesGuarded,
			Code: receiptCode},
	}
}

func crashBeforeExpire() Experiment {
	return Experiment{
		ID: "redis-crash-before-expire", Strategy: Redis, Fault: "Crash between SETNX and EXPIRE",
		Story: "A node claims the receipt with SETNX and dies before EXPIRE gives the key its end. Then another " +
			"node gets the event.",
		Why: "SETNX and EXPIRE are two commands, and a process can die between any two. " +
			"The key that it leaves has no end: every retry, tomorrow's as well, takes it for a receipt that was " +
			"sent, and the buyer never gets one. " +
			"The guarded node claims with one command, SET … NX with the time to live in it, so there is no moment " +
			"in which a key stands without its end. " +
			"Its key is a lease with a token: who meets it looks again later, and when the lease is over another " +
			"node sends. " +
			"That a lease can also end too early is why the receipt's row decides.",
		Shrunk: "After the crash, the lease in Redis is cut from 30 s to 0.3 s.",
		Actors: redisActors,
		Naive: Twin{Title: "SETNX, then EXPIRE", Expect: Loses, Run: redisExpireNaive,
			Code: []string{"internal/proof/lab/redis_naive.go:naiveSender.sendWithSetNX"}},
		Guarded: Twin{Title: "one SET with its end in it", Expect: Holds, Run: redisExpireGuarded,
			Code: []string{"internal/dedup/redis.go:Claims.Claim", "internal/notify/notify.go:Service.HandlePaid"}},
	}
}

func markedBeforeTheWork() Experiment {
	return Experiment{
		ID: "redis-marked-before-the-work", Strategy: Redis, Fault: "Marked before the work, then a crash",
		Story: "A node marks the receipt as sent, with a proper end for the key, and dies before it has talked to " +
			"the mail server.",
		Why: "The mark is written before the work, so it says what a node was about to do and not what it did. " +
			"The retry finds the mark, believes it and is acknowledged: nobody asks a third time, and the receipt " +
			"is lost. " +
			"To mark after the work only turns the loss into a duplicate, because a crash between the two then " +
			"sends again. " +
			"The guarded twin knows two states: claimed, with a lease and a token, and done, which is written when " +
			"the mail server has answered and the row says sent. " +
			"A claim without a done ends with its lease, and the next node makes the second attempt.",
		Shrunk: "After the crash, the lease in Redis is cut from 30 s to 0.3 s, and that of the row, 30 s too, is " +
			"ended.",
		Actors: redisActors,
		Naive: Twin{Title: "mark, then send", Expect: Loses, Run: redisMarkedNaive,
			Code: []string{"internal/proof/lab/redis_naive.go:naiveSender.sendOnce"}},
		Guarded: Twin{Title: "claim, send, then done", Expect: Holds, Run: redisMarkedGuarded,
			Code: []string{"internal/notify/notify.go:Service.HandlePaid",
				"internal/notify/notify.go:Service.sendOnce", "internal/dedup/redis.go:Claim.Done"}},
	}
}

func shortTTLs() Experiment {
	return Experiment{
		ID: "redis-ttl-shorter-than-the-work", Strategy: Redis, Fault: "TTL shorter than the work",
		Story: "The mail server is slow. Before it answers the first node, that node's key in Redis has expired, " +
			"and a second node gets the event.",
		Why: "A TTL is somebody's guess at how long the work takes. " +
			"When the mail server is slower than the guess, the key is gone while the work goes on, and SET NX " +
			"lets the second node in. " +
			"In the shop the work has a bound of its own, 10 s for a mail within a lease of 30 s, so the key " +
			"outlasts it. " +
			"And where the key is gone all the same, as here, the row refuses a second sender: while its lease " +
			"runs, and for ever once it says sent. " +
			"The first node's late “done” is checked against its token, so that it cannot overwrite what another " +
			"has claimed since.",
		Shrunk: "The naive key lives 0.3 s. The guarded one is cut from 30 s to 0.3 s, and the row's lease is left " +
			"as it is.",
		Actors: redisActors,
		Naive: Twin{Title: "SET NX with a guessed TTL", Expect: Duplicates, Run: redisTTLNaive,
			Code: []string{"internal/proof/lab/redis_naive.go:naiveSender.sendOnce"}},
		Guarded: Twin{Title: "the row has a lease as well", Expect: Holds, Run: redisTTLGuarded,
			Code: []string{"internal/notify/notify.go:Service.sendOnce",
				"internal/notify/notify.go:Service.notClaimed", "internal/dedup/redis.go:Claim.finish"}},
	}
}

func flushed() Experiment {
	return Experiment{
		ID: "redis-flushall", Strategy: Redis, Fault: "FLUSHALL",
		Story: "The receipt is sent, and Redis knows it. Then Redis loses its keys, and the event is delivered " +
			"once more.",
		Why: "What Redis knows ends with a flush, an eviction, a restart, or a failover to a replica that had not " +
			"heard of the key. " +
			"To the naive twin an empty Redis looks like a receipt that was never sent, so it sends another. " +
			"The guarded twin asks Redis only to be spared a trip. " +
			"Where Redis knows nothing the trip is made, and the order's unique row in the database says that its " +
			"receipt is sent. " +
			"The trap is to take Redis for the record because it is fast: it is a hint, and the row is the record.",
		Shrunk: "Only the keys of this run are deleted, because the shop uses the same Redis.",
		Actors: redisActors,
		Naive: Twin{Title: "Redis is the record", Expect: Duplicates, Run: redisFlushNaive,
			Code: []string{"internal/proof/lab/redis_naive.go:naiveSender.sendOnce"}},
		Guarded: Twin{Title: "the row is the record", Expect: Holds, Run: redisFlushGuarded,
			Code: []string{"internal/notify/notify.go:Service.sendOnce",
				"internal/notify/notify.go:Service.notClaimed"}},
	}
}

func redisDown() Experiment {
	return Experiment{
		ID: "redis-down", Strategy: Redis, Fault: "Redis is down",
		Story: "Redis refuses every connection. The event comes to one node, and then to the other.",
		Why: "With Redis alone there are two ways to go on without it, and both are wrong: to send anyway " +
			"duplicates, as here, and to refuse keeps every receipt back until Redis is up. " +
			"Nor does it help to ask the database only while Redis is down: when it comes or goes in mid-flight, " +
			"neither knows what the other has let through. " +
			"The guarded twin has nothing to fall back to, because the row is claimed for every receipt, with " +
			"Redis and without it. " +
			"So there is one authority at any time, and losing Redis costs a question to the database.",
		Shrunk: "Redis itself goes on: the nodes of this run have clients that are refused.",
		Actors: redisActors,
		Naive: Twin{Title: "without Redis, send anyway", Expect: Duplicates, Run: redisDownNaive,
			Code: []string{"internal/proof/lab/redis_naive.go:naiveSender.sendEvenWithoutRedis"}},
		Guarded: Twin{Title: "the row decides, with Redis or without", Expect: Holds, Run: redisDownGuarded,
			Code: receiptCode},
	}
}
