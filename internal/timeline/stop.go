package timeline

// Stop is how a second request, event or worker was kept from having a second effect. Which facts
// besides Kind are set depends on the kind.
type Stop struct {
	Kind Kind
	// Operation is the scope of an idempotency key, such as "orders".
	Operation string
	// EventID and EventType are those of the payment provider's event.
	EventID, EventType string
	// Attempt is the attempt number of the lease that a stale worker held.
	Attempt int32
}

// Kind is a way in which a twin is stopped.
type Kind string

// The kinds, each with the facts that it needs.
const (
	KeyReplayed     Kind = "key_replayed"      // the database had the key and its answer; Operation
	KeyReused       Kind = "key_reused"        // the key belongs to a different request; Operation
	KeyInProgress   Kind = "key_in_progress"   // the first request with the key was still running; Operation
	MemoryReplayed  Kind = "memory_replayed"   // this node had the answer or was working on it; Operation
	OtherChargeLive Kind = "other_charge_live" // another key's charge of the order was in progress
	OrderPaid       Kind = "order_paid"        // another key's charge had paid the order
	EventSeen       Kind = "event_seen"        // the provider's event was stored before; EventID, EventType
	StaleWorker     Kind = "stale_worker"      // a later attempt had taken over; Attempt
	SettledAlready  Kind = "settled_already"   // a charge was settled before the provider's answer came
	// SettledMeanwhile: while a request waited for the provider, something else settled its charge.
	SettledMeanwhile Kind = "settled_meanwhile"
	BrokerDuplicate  Kind = "broker_duplicate" // the broker had stored the event's message id before
	ClaimDone        Kind = "claim_done"       // Redis had the receipt marked as sent
	ClaimBusy        Kind = "claim_busy"       // another sender held the claim in Redis
	ReceiptSent      Kind = "receipt_sent"     // the receipt's row was marked as sent
	ReceiptLeased    Kind = "receipt_leased"   // another sender held the lease of the receipt's row
	HeldBack         Kind = "held_back"        // the page's script did not send the form again
)
