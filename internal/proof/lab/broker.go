package lab

// brokerActors are the columns of every experiment with events.
var brokerActors = []Actor{NodeA, NodeB, Stream, RedisBox, Database, Mailbox}

func brokerExperiments() []Experiment {
	return []Experiment{insideTheWindow(), afterTheWindow(), freshIDs(), diesBeforeAck(), allLayers()}
}

func insideTheWindow() Experiment {
	return Experiment{
		ID: "broker-inside-the-window", Strategy: Broker, Fault: "Relay repeats inside the window",
		Story: "A relay publishes the event and dies before it marks it as published. The next relay publishes it " +
			"again, while the broker still remembers the message id.",
		Why: "A relay can die between publishing and marking, and the next one cannot know whether the event is " +
			"out: it has to publish again. " +
			"Both use the same message id. The broker compares it with those it has seen within its window, stores " +
			"nothing, and answers with the number of the first copy. " +
			"So the stream holds the event once, and even a consumer without a guard sends one receipt. " +
			"It holds for two reasons: the id belongs to the event, and the repeat came in time. " +
			"The shop sees to the second: a dead relay's event waits 30 s, the broker remembers for 10 min, and " +
			"the shop does not start with a window that is too short for its relay.",
		Shrunk: "A dead relay's event waits 0.25 s instead of 30 s. The window is 2 min here and 10 min in the shop.",
		Actors: brokerActors,
		Naive: Twin{Title: "an id for each event", Expect: Holds, Run: relayedTwice(longWindow, idOfEvent),
			Code: []string{"internal/proof/lab/broker_naive.go:naiveRelay.publishUnsent",
				"internal/proof/lab/broker_naive.go:idOfEvent"}},
		Guarded: Twin{Title: "the outbox id is the message id", Expect: Holds, Run: relayedTwiceGuarded(longWindow),
			Code: []string{"internal/outbox/relay.go:Relay.RunOnce", "internal/dedup/broker.go:Stream.Publish"}},
	}
}

func afterTheWindow() Experiment {
	return Experiment{
		ID: "broker-after-the-window", Strategy: Broker, Fault: "Relay repeats after the window",
		Story: "A relay publishes the event and dies before it marks it. By the time the next relay publishes it " +
			"again, the broker has forgotten the message id.",
		Why: "A duplicate window is a memory with an end, counted from the first publication. " +
			"A relay that is away for longer repeats itself to a broker that has forgotten, and the stream holds " +
			"the event twice, under two numbers. " +
			"A consumer without a guard then sends two receipts. " +
			"In the guarded twin the stream holds two copies as well, for nothing at the broker could know better: " +
			"what happens once is the effect, because Redis, and the receipt's row behind it, know that this " +
			"order has its receipt. " +
			"The trap is to take “exactly once” in the stream for once in the mailbox.",
		Shrunk: "The duplicate window is 0.3 s instead of 10 min, and a dead relay's event waits 0.25 s instead of " +
			"30 s.",
		Actors: brokerActors,
		Naive: Twin{Title: "the broker is the guard", Expect: Duplicates, Run: relayedTwice(shortWindow, idOfEvent),
			Code: []string{"internal/proof/lab/broker_naive.go:naiveRelay.publishUnsent",
				"internal/proof/lab/broker_naive.go:naiveSender.receiveOne"}},
		Guarded: Twin{Title: "the consumer has its own guard", Expect: Holds, Run: relayedTwiceGuarded(shortWindow),
			Code: []string{"internal/outbox/relay.go:Relay.RunOnce", "internal/notify/notify.go:Service.HandlePaid"}},
	}
}

func freshIDs() Experiment {
	return Experiment{
		ID: "broker-fresh-id", Strategy: Broker, Fault: "A fresh id for each publication",
		Story: "The publisher makes a new message id whenever it publishes. It dies before it marks the event, and " +
			"the next one publishes it again at once.",
		Why: "The broker compares ids and never looks into a message: two ids are two messages, however alike. " +
			"An id that is made when publishing names the try and not the event, so the repeat is new to the " +
			"broker although its window is wide open. " +
			"It is an easy mistake, because every publication does have an id, and everything works until a " +
			"process dies. " +
			"The shop's message id is the type and the outbox id of the event, and that row is written in the " +
			"transaction of the change it reports: whoever publishes it, whenever, the id is the same.",
		Shrunk: "A dead relay's event waits 0.25 s instead of 30 s. The window is 2 min here and 10 min in the shop.",
		Actors: brokerActors,
		Naive: Twin{Title: "an id for each try", Expect: Duplicates, Run: relayedTwice(longWindow, freshID),
			Code: []string{"internal/proof/lab/broker_naive.go:naiveRelay.publishUnsent",
				"internal/proof/lab/broker_naive.go:freshID"}},
		Guarded: Twin{Title: "the outbox id is the message id", Expect: Holds, Run: relayedTwiceGuarded(longWindow),
			Code: []string{"internal/outbox/outbox.go:EnqueueTx", "internal/outbox/relay.go:Relay.message",
				"internal/dedup/broker.go:Stream.Publish"}},
	}
}

func diesBeforeAck() Experiment {
	return Experiment{
		ID: "broker-dies-before-ack", Strategy: Broker, Fault: "Consumer dies before its ack",
		Story: "A consumer sends the receipt and dies before it acknowledges the message. The broker delivers it " +
			"again, to another node.",
		Why: "The stream holds the event once, and the duplicate happens all the same: a message without an ack " +
			"may not have been handled, so the broker has to deliver it again, and its window covers publishers " +
			"only. " +
			"To acknowledge before the work would turn the duplicate into a loss. " +
			"The shop's consumer may get an event any number of times. " +
			"Its service recognizes the order by the key in Redis, or by the receipt's row where Redis has " +
			"forgotten, and reports that there is nothing left to do; then the ack goes out.",
		Shrunk: "The broker waits 0.2 s for the ack instead of 1 min.",
		Actors: brokerActors,
		Naive: Twin{Title: "send, then ack", Expect: Duplicates, Run: brokerAckNaive,
			Code: []string{"internal/proof/lab/broker_naive.go:naiveSender.receiveOne"}},
		Guarded: Twin{Title: "once for each order, then ack", Expect: Holds, Run: brokerAckGuarded,
			Code: []string{"internal/outbox/consumer.go:Consumer.process",
				"internal/notify/notify.go:Service.HandlePaid"}},
	}
}

func allLayers() Experiment {
	return Experiment{
		ID: "broker-all-layers", Strategy: Broker, Fault: "All layers, one after another",
		Story: "One event, and one layer falls after another: the broker's window passes, a node restarts, a " +
			"consumer dies before its ack, Redis loses its keys. At last another node gets the event.",
		Why: "The naive chain has three guards: the broker, the memory of the process, and Redis. " +
			"Each of them stops the twins that come while it remembers, and each forgets: with its window, with " +
			"its process, with a flush. " +
			"The twin that comes after all of them have forgotten is sent, so three hints do not add up to a record. " +
			"The guarded twin has the row of the receipt behind its hints, unique for the order and claimed before " +
			"the mail goes out, in a database that keeps it through all of this. " +
			"One moment remains, between the mail server's 250 and the record of it: no guard covers that, and a " +
			"mail that is sent twice then carries the same Message-ID.",
		Shrunk: "The duplicate window is 0.3 s instead of 10 min, a dead relay's event waits 0.25 s instead of 30 " +
			"s, the broker waits 0.2 s for an ack instead of 1 min, and only the keys of this run are deleted.",
		Actors: brokerActors,
		Naive: Twin{Title: "broker, memory and Redis", Expect: Duplicates, Run: brokerAllNaive,
			Code: []string{"internal/proof/lab/broker_naive.go:naiveChain.receiveOne",
				"internal/proof/lab/redis_naive.go:naiveSender.sendOnce"}},
		Guarded: Twin{Title: "hints, and the row behind them", Expect: Holds, Run: brokerAllGuarded,
			Code: []string{"internal/outbox/relay.go:Relay.RunOnce", "internal/notify/notify.go:Service.HandlePaid",
				"internal/notify/notify.go:Service.sendOnce"}},
	}
}
