package lab

// What a message id passes: where it comes from, the statement that sends it, and the window of the
// broker that compares it.
const (
	outboxKey    = "db/migrations/00004_outbox.sql:outbox~PRIMARY KEY"
	enqueue      = "db/queries/outbox/outbox.sql:Enqueue"
	publish      = "internal/dedup/broker.go:Stream.Publish~PublishMsgAsync"
	brokerWindow = "internal/outbox/broker/nats/streams.go:Broker.configureStream~config.Duplicates"
	naiveEvents  = "internal/proof/lab/naive_mails.sql:paid_events"
	naivePublish = "internal/proof/lab/broker_naive.go:naiveRelay.publishUnsent~PublishMsg"
)

// brokerActors are the columns of every experiment with events.
var brokerActors = []Actor{NodeA, NodeB, Stream, RedisBox, Database, Mailbox}

func brokerExperiments() []Experiment {
	return []Experiment{insideTheWindow(), afterTheWindow(), freshIDs(), diesBeforeAck(), allLayers()}
}

func insideTheWindow() Experiment {
	return Experiment{
		ID: "broker-inside-the-window", Strategy: Broker,
		Predict: Prediction{Effect: "receipts", Choices: []int{1, 2},
			Question: "The relay publishes the event twice within the window. " +
				"How many receipts does the naive consumer send?"},
		Shrunk: "A dead relay's event waits 0.25 s instead of 30 s. The window is 2 min here and 10 min in the shop.",
		Actors: brokerActors,
		Naive: Twin{Title: "an id for each event", Expect: Holds,
			Constraint: []string{naiveEvents, brokerWindow},
			Statement:  []string{naivePublish},
			Run:        relayedTwice(longWindow, idOfEvent),
			Code: []string{"internal/proof/lab/broker_naive.go:naiveRelay.publishUnsent",
				"internal/proof/lab/broker_naive.go:idOfEvent"}},
		Guarded: Twin{Title: "the outbox id is the message id", Expect: Holds,
			Constraint: []string{outboxKey, brokerWindow},
			Statement: []string{enqueue,
				publish},
			Run:  relayedTwiceGuarded(longWindow),
			Code: []string{"internal/outbox/relay.go:Relay.RunOnce", "internal/dedup/broker.go:Stream.Publish"}},
	}
}

func afterTheWindow() Experiment {
	return Experiment{
		ID: "broker-after-the-window", Strategy: Broker,
		Predict: Prediction{Effect: "receipts", Choices: []int{1, 2},
			Question: "The relay publishes the event again after the window. " +
				"How many receipts does the naive consumer send?"},
		Shrunk: "The duplicate window is 0.3 s instead of 10 min, and a dead relay's event waits 0.25 s instead of " +
			"30 s.",
		Actors: brokerActors,
		Naive: Twin{Title: "the broker is the guard", Expect: Duplicates,
			Constraint: []string{naiveEvents, brokerWindow},
			Statement:  []string{naivePublish},
			Run:        relayedTwice(shortWindow, idOfEvent),
			Code: []string{"internal/proof/lab/broker_naive.go:naiveRelay.publishUnsent",
				"internal/proof/lab/broker_naive.go:naiveSender.receiveOne"}},
		Guarded: Twin{Title: "the consumer has its own guard", Expect: Holds,
			Constraint: []string{outboxKey, receiptsKey, brokerWindow},
			Statement: []string{claimReceipt,
				publish},
			Run:  relayedTwiceGuarded(shortWindow),
			Code: []string{"internal/outbox/relay.go:Relay.RunOnce", "internal/notify/notify.go:Service.HandlePaid"}},
	}
}

func freshIDs() Experiment {
	return Experiment{
		ID: "broker-fresh-id", Strategy: Broker,
		Predict: Prediction{Effect: "receipts", Choices: []int{1, 2},
			Question: "Each publish has a fresh message id. How many receipts does the naive consumer send?"},
		Shrunk: "A dead relay's event waits 0.25 s instead of 30 s. The window is 2 min here and 10 min in the shop.",
		Actors: brokerActors,
		Naive: Twin{Title: "an id for each try", Expect: Duplicates,
			Constraint: []string{naiveEvents, brokerWindow},
			Statement:  []string{naivePublish},
			Run:        relayedTwice(longWindow, freshID),
			Code: []string{"internal/proof/lab/broker_naive.go:naiveRelay.publishUnsent",
				"internal/proof/lab/broker_naive.go:freshID"}},
		Guarded: Twin{Title: "the outbox id is the message id", Expect: Holds,
			Constraint: []string{outboxKey, brokerWindow},
			Statement: []string{enqueue,
				publish},
			Run: relayedTwiceGuarded(longWindow),
			Code: []string{"internal/outbox/outbox.go:EnqueueTx", "internal/outbox/relay.go:Relay.message",
				"internal/dedup/broker.go:Stream.Publish"}},
	}
}

func diesBeforeAck() Experiment {
	return Experiment{
		ID: "broker-dies-before-ack", Strategy: Broker,
		Predict: Prediction{Effect: "receipts", Choices: []int{0, 1, 2},
			Question: "The consumer sends the receipt and dies before its ack. " +
				"How many receipts does the buyer get from the naive shop?"},
		Shrunk: "The broker waits 0.2 s for the ack instead of 1 min.",
		Actors: brokerActors,
		Naive: Twin{Title: "send, then ack", Expect: Duplicates,
			Constraint: []string{naiveEvents, brokerWindow},
			Statement:  []string{"internal/proof/lab/broker_naive.go:naiveSender.receiveOne~s.send"},
			Run:        brokerAckNaive,
			Code:       []string{"internal/proof/lab/broker_naive.go:naiveSender.receiveOne"}},
		Guarded: Twin{Title: "once for each order, then ack", Expect: Holds,
			Constraint: []string{receiptsKey, brokerWindow},
			Statement:  []string{claimReceipt},
			Run:        brokerAckGuarded,
			Code: []string{"internal/outbox/consumer.go:Consumer.process",
				"internal/notify/notify.go:Service.HandlePaid"}},
	}
}

func allLayers() Experiment {
	return Experiment{
		ID: "broker-all-layers", Strategy: Broker,
		Predict: Prediction{Effect: "receipts", Choices: []int{0, 1, 2},
			Question: "Three guards, and each forgets once. How many receipts does the naive chain send?"},
		Shrunk: "The duplicate window is 0.3 s instead of 10 min, a dead relay's event waits 0.25 s instead of 30 " +
			"s, the broker waits 0.2 s for an ack instead of 1 min, and only the keys of this run are deleted.",
		Actors: brokerActors,
		Naive: Twin{Title: "broker, memory and Redis", Expect: Duplicates,
			Constraint: []string{naiveEvents, naiveKey, brokerWindow},
			Statement:  []string{"internal/proof/lab/redis_naive.go:naiveSender.sendOnce~SetNX"},
			Run:        brokerAllNaive,
			Code: []string{"internal/proof/lab/broker_naive.go:naiveChain.receiveOne",
				"internal/proof/lab/redis_naive.go:naiveSender.sendOnce"}},
		Guarded: Twin{Title: "hints, and the row behind them", Expect: Holds,
			Constraint: []string{receiptsKey, outboxKey, brokerWindow},
			Statement: []string{claimReceipt,
				publish},
			Run: brokerAllGuarded,
			Code: []string{"internal/outbox/relay.go:Relay.RunOnce", "internal/notify/notify.go:Service.HandlePaid",
				"internal/notify/notify.go:Service.sendOnce"}},
	}
}
