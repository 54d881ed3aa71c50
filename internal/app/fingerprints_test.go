package app_test

import (
	"encoding/hex"
	"testing"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
)

// The fingerprints of yesterday's requests are stored beside their keys. If one of these changes, a
// retry across the deployment gets 422: give a new field the option omitzero, or else raise
// dedup's fingerprintVersion and write down the new values here.
func TestFingerprintsStay(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse("0193588e-6c00-7a3b-8f21-5d0c9e4b7a10")
	amount, total := int64(250), int64(2800)
	lines := []orders.LineRequest{{SKU: "MUG-ONCE", Quantity: 2}, {SKU: "PIN-KEY", Quantity: 1}}
	for name, command := range map[string]struct {
		fingerprint dedup.Fingerprint
		want        string
	}{
		"place": {orders.PlaceOrder{CustomerID: id, Key: "k", Email: "alice@example.com", Lines: lines}.Fingerprint(),
			"01b74288bb071593d258a32bfdb07e42ebc4e95210e87eb1ba92db9a4c910afd"},
		"place at a total": {orders.PlaceOrder{Email: "alice@example.com", Lines: lines, ExpectedTotal: &total,
			Currency: "EUR"}.Fingerprint(),
			"01edfdde5bba7eae1e0dcc9b87e106758948ed128a6759882d2258dcae3ebd72"},
		"charge": {payments.ChargeOrder{OrderID: id, PaymentMethod: "pm_ok"}.Fingerprint(),
			"0160cdfc248276741d6323fd7b8da1d3dc9e2ef8ed674e919cd799172a18787b"},
		"refund": {payments.RefundCharge{ChargeID: id, Amount: &amount, Reason: "a <chip>"}.Fingerprint(),
			"01b5075853ed0eb92642021b53704dcdd38147c7bba5f57d4f1bc5a1128e5293"},
		"refund all": {payments.RefundCharge{ChargeID: id}.Fingerprint(),
			"01bacfcb8cea6b0bc25d834f492251bb918e0543962d9192d88a4c2ec4ec569f"},
		"cancel": {payments.CancelOrder{OrderID: id, Admin: true}.Fingerprint(),
			"01968514db69e69f97658aa4e9d0be68f009fadc247d38c0c9cc316f196e0f51"},
		"deliver": {orders.ReceiveDelivery{Lines: lines}.Fingerprint(),
			"014df69f5c31a82cc1e08673f28dd0e128f264f5dbbb8d70e49c0d7b9521b615"},
		"operate": {payments.Operation{Action: payments.EndDebt, Subject: id.String(), Operator: "olga",
			Reason: "paid in cash"}.Fingerprint(),
			"01ba3457499ff5e248ab78362446ab4041bfda762845444758a25c632bbc2679"},
		"operate with an id": {payments.Operation{Action: payments.SettleCaptured, Subject: id.String(),
			ProviderID: "cap_1", Reason: "seen"}.Fingerprint(),
			"0184b39f0a2f8afbf822c582aee73b2b023367d2429c79f1f9eccadefb10f3be"},
	} {
		if got := hex.EncodeToString(command.fingerprint[:]); got != command.want {
			t.Errorf("%s: %q, want %q", name, got, command.want)
		}
	}
}
