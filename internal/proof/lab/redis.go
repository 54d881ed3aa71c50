package lab

// What decides on a receipt: the naive sender's key in Redis, and the shop's row with the statement
// that claims it.
const (
	naiveKey     = "internal/proof/lab/redis_naive.go:naiveSender"
	receiptsKey  = "db/migrations/00005_notify.sql:receipts~PRIMARY KEY"
	claimReceipt = "db/queries/notify/receipts.sql:ClaimReceipt"
)

var (
	// redisActors are the columns of every experiment with receipts.
	redisActors = []Actor{NodeA, NodeB, RedisBox, Database, Mailbox}
	// receiptStatement claims the receipt, in the database and in Redis.
	receiptStatement = []string{claimReceipt, "internal/dedup/redis.go:Claims.Claim~SetArgs"}
	// receiptCode is where the shop decides that a receipt is sent.
	receiptCode = []string{"internal/notify/notify.go:Service.HandlePaid",
		"internal/notify/notify.go:Service.sendOnce", "internal/dedup/redis.go:Claims.Claim"}
)

func redisExperiments() []Experiment {
	return []Experiment{twoNodes(), crashBeforeExpire(), markedBeforeTheWork(), shortTTLs(), flushed(), redisDown()}
}

func twoNodes() Experiment {
	return Experiment{
		ID: "redis-two-nodes", Strategy: Redis,
		Predict: Prediction{Effect: "receipts", Choices: []int{0, 1, 2},
			Question: "Two nodes handle one paid event. How many receipts do the naive nodes send?"},
		Actors: redisActors,
		Naive: Twin{Title: "SET NX with a TTL", Expect: Holds,
			Constraint: []string{naiveKey},
			Statement:  []string{"internal/proof/lab/redis_naive.go:naiveSender.sendOnce~SetNX"},
			Run:        redisTwoNodesNaive,
			Code:       []string{"internal/proof/lab/redis_naive.go:naiveSender.sendOnce"}},
		Guarded: Twin{Title: "a claim, and the row behind it", Expect: Holds,
			Constraint: []string{receiptsKey},
			Statement:  receiptStatement,
			Run:        redisTwoNodesGuarded,
			Code:       receiptCode},
	}
}

func crashBeforeExpire() Experiment {
	return Experiment{
		ID: "redis-crash-before-expire", Strategy: Redis,
		Predict: Prediction{Effect: "receipts", Choices: []int{0, 1, 2},
			Question: "The first node dies, the second gets the event. " +
				"How many receipts does the buyer get from the naive nodes?"},
		Shrunk: "After the crash, the lease in Redis is cut from 30 s to 0.3 s.",
		Actors: redisActors,
		Naive: Twin{Title: "SETNX, then EXPIRE", Expect: Loses,
			Constraint: []string{naiveKey},
			Statement:  []string{"internal/proof/lab/redis_naive.go:naiveSender.sendWithSetNX~SetNX"},
			Run:        redisExpireNaive,
			Code:       []string{"internal/proof/lab/redis_naive.go:naiveSender.sendWithSetNX"}},
		Guarded: Twin{Title: "one SET, lifetime included", Expect: Holds,
			Constraint: []string{receiptsKey},
			Statement:  receiptStatement,
			Run:        redisExpireGuarded,
			Code: []string{"internal/dedup/redis.go:Claims.Claim",
				"internal/notify/notify.go:Service.HandlePaid"}},
	}
}

func markedBeforeTheWork() Experiment {
	return Experiment{
		ID: "redis-marked-before-the-work", Strategy: Redis,
		Predict: Prediction{Effect: "receipts", Choices: []int{0, 1, 2},
			Question: "The first node dies, the second gets the event. " +
				"How many receipts does the buyer get from the naive nodes?"},
		Shrunk: "After the crash, the lease in Redis is cut from 30 s to 0.3 s, and that of the row, 30 s too, is " +
			"ended.",
		Actors: redisActors,
		Naive: Twin{Title: "mark, then send", Expect: Loses,
			Constraint: []string{naiveKey},
			Statement:  []string{"internal/proof/lab/redis_naive.go:naiveSender.sendOnce~SetNX"},
			Run:        redisMarkedNaive,
			Code:       []string{"internal/proof/lab/redis_naive.go:naiveSender.sendOnce"}},
		Guarded: Twin{Title: "claim, send, then done", Expect: Holds,
			Constraint: []string{receiptsKey},
			Statement:  receiptStatement,
			Run:        redisMarkedGuarded,
			Code: []string{"internal/notify/notify.go:Service.HandlePaid",
				"internal/notify/notify.go:Service.sendOnce", "internal/dedup/redis.go:Claim.Done"}},
	}
}

func shortTTLs() Experiment {
	return Experiment{
		ID: "redis-ttl-shorter-than-the-work", Strategy: Redis,
		Predict: Prediction{Effect: "receipts", Choices: []int{0, 1, 2},
			Question: "The key expires while the first node is still sending. " +
				"How many receipts do the naive nodes send?"},
		Shrunk: "The naive key lives 0.3 s. The guarded one is cut from 30 s to 0.3 s, and the row's lease is left " +
			"as it is.",
		Actors: redisActors,
		Naive: Twin{Title: "SET NX with a guessed TTL", Expect: Duplicates,
			Constraint: []string{naiveKey},
			Statement:  []string{"internal/proof/lab/redis_naive.go:naiveSender.sendOnce~SetNX"},
			Run:        redisTTLNaive,
			Code:       []string{"internal/proof/lab/redis_naive.go:naiveSender.sendOnce"}},
		Guarded: Twin{Title: "the row has a lease as well", Expect: Holds,
			Constraint: []string{receiptsKey},
			Statement:  receiptStatement,
			Run:        redisTTLGuarded,
			Code: []string{"internal/notify/notify.go:Service.sendOnce",
				"internal/notify/notify.go:Service.notClaimed", "internal/dedup/redis.go:Claim.finish"}},
	}
}

func flushed() Experiment {
	return Experiment{
		ID: "redis-flushall", Strategy: Redis,
		Predict: Prediction{Effect: "receipts", Choices: []int{1, 2},
			Question: "The event arrives once before the flush and once after it. " +
				"How many receipts do the naive nodes send?"},
		Shrunk: "Only the keys of this run are deleted, because the shop uses the same Redis.",
		Actors: redisActors,
		Naive: Twin{Title: "Redis is the record", Expect: Duplicates,
			Constraint: []string{naiveKey},
			Statement:  []string{"internal/proof/lab/redis_naive.go:naiveSender.sendOnce~SetNX"},
			Run:        redisFlushNaive,
			Code:       []string{"internal/proof/lab/redis_naive.go:naiveSender.sendOnce"}},
		Guarded: Twin{Title: "the row is the record", Expect: Holds,
			Constraint: []string{receiptsKey},
			Statement:  receiptStatement,
			Run:        redisFlushGuarded,
			Code: []string{"internal/notify/notify.go:Service.sendOnce",
				"internal/notify/notify.go:Service.notClaimed"}},
	}
}

func redisDown() Experiment {
	return Experiment{
		ID: "redis-down", Strategy: Redis,
		Predict: Prediction{Effect: "receipts", Choices: []int{0, 1, 2},
			Question: "Redis is down, and the event comes to both nodes. How many receipts do the naive nodes send?"},
		Shrunk: "Redis keeps running: only the connections of this run are refused.",
		Actors: redisActors,
		Naive: Twin{Title: "without Redis, send anyway", Expect: Duplicates,
			Constraint: []string{naiveKey},
			Statement:  []string{"internal/proof/lab/redis_naive.go:naiveSender.sendEvenWithoutRedis~SetNX"},
			Run:        redisDownNaive,
			Code:       []string{"internal/proof/lab/redis_naive.go:naiveSender.sendEvenWithoutRedis"}},
		Guarded: Twin{Title: "the row decides, with Redis or without", Expect: Holds,
			Constraint: []string{receiptsKey},
			Statement:  receiptStatement,
			Run:        redisDownGuarded,
			Code:       receiptCode},
	}
}
