package web

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/payments"
)

// method is a payment method. ID is the provider's name of it.
type method struct {
	ID, Name, Hint string
	Chosen         bool
}

// The payment methods of the simulated provider, and their effects.
var (
	testCards = []method{
		{ID: "pm_ok", Name: "Test card, succeeds"},
		{ID: "pm_declined", Name: "Test card, declined"},
		{ID: "pm_insufficient_funds", Name: "Test card, insufficient funds"},
		{ID: "pm_requires_action", Name: "Test card, bank asks you to confirm"},
	}
	faultyCards = []method{
		{ID: "pm_timeout_before_capture", Name: "Times out before charging",
			Hint: "The provider stops responding before it takes any money."},
		{ID: "pm_timeout_after_capture", Name: "Times out after charging",
			Hint: "The provider takes the money, but its response never arrives."},
		{ID: "pm_error_before_capture", Name: "Fails before charging",
			Hint: "The provider returns an error and takes no money."},
		{ID: "pm_error_after_capture", Name: "Fails after charging",
			Hint: "The provider takes the money, then returns an error."},
		{ID: "pm_slow", Name: "Slow response", Hint: "The payment succeeds, but the response takes three seconds."},
		{ID: "pm_webhook_first", Name: "Webhook arrives first",
			Hint: "The payment event arrives before the provider's response."},
		{ID: "pm_webhook_storm", Name: "Webhook delivered five times",
			Hint: "The provider delivers each event five times, in random order."},
		{ID: "pm_timeout_late_webhook", Name: "Times out, webhook arrives late",
			Hint: "The provider takes the money without responding. Its event arrives eight seconds later."},
		{ID: "pm_refund_pending", Name: "Slow refund",
			Hint: "The payment succeeds. A refund takes the provider five seconds."},
		{ID: "pm_refund_fails_later", Name: "Refund fails later",
			Hint: "The payment succeeds. A refund is accepted, then fails."},
		{ID: "pm_refund_refused", Name: "Refund refused",
			Hint: "The payment succeeds. The provider refuses to refund it."},
		{ID: "pm_disputed", Name: "Disputed payment",
			Hint: "The payment succeeds. Two seconds later, the bank opens a dispute."},
	}
	realCards   = []method{{ID: "pm_ok", Name: "Card"}}
	stripeCards = []method{
		{ID: "pm_card_visa", Name: "Stripe test card, succeeds"},
		{ID: "pm_card_chargeDeclined", Name: "Stripe test card, declined"},
		{ID: "pm_card_threeDSecure2Required", Name: "Stripe test card, bank asks you to confirm"},
	}
)

// choice has the available payment methods, with one chosen.
type choice struct {
	Usual, Faulty []method
	ChosenFaulty  bool
}

// methods returns the available methods, with the given one chosen, or the first.
func (w *Web) methods(chosen string) choice {
	offer := choice{Usual: slices.Clone(realCards)}
	switch {
	case w.Stripe:
		offer.Usual = slices.Clone(stripeCards)
	case w.Demo:
		offer = choice{Usual: slices.Clone(testCards), Faulty: slices.Clone(faultyCards)}
	}
	offer.ChosenFaulty = choose(offer.Faulty, chosen)
	if !choose(offer.Usual, chosen) && !offer.ChosenFaulty {
		offer.Usual[0].Chosen = true
	}
	return offer
}

func choose(list []method, id string) bool {
	at := slices.IndexFunc(list, func(m method) bool { return m.ID == id })
	if at >= 0 {
		list[at].Chosen = true
	}
	return at >= 0
}

// offers reports whether the method is available.
func (w *Web) offers(id string) bool {
	offer := w.methods(id)
	return offer.ChosenFaulty || choose(offer.Usual, id)
}

// pay makes a numbered attempt to pay for the order. It returns the address of the order's page,
// which shows the outcome, and does not wait for a slow provider. The number is that of the charges
// that had ended when the form was shown: sending the form again repeats the attempt, and a form
// shown after a decline makes a new one. Package payments makes sure that two attempts cannot both
// take money.
func (w *Web) pay(c echo.Context, customer, orderID uuid.UUID, try int, methodID string) (string, error) {
	command := payments.ChargeOrder{
		CustomerID:    customer,
		OrderID:       orderID,
		PaymentMethod: methodID,
		Key:           dedup.Key("pay-" + orderID.String() + "-" + strconv.Itoa(try)),
	}
	answer, err := w.once(c, "charges", customer, command.Key, command.Fingerprint(),
		func(ctx context.Context) (dedup.Answer, error) {
			return w.Payments.ChargeSoon(ctx, command, w.PayWait)
		})
	_, live := errors.AsType[payments.InProgressError](err)
	_, paid := errors.AsType[payments.AlreadyPaidError](err)
	page := "/orders/" + orderID.String()
	switch {
	case errors.Is(err, dedup.ErrKeyReused):
		return page + "?notice=outdated", nil
	case live:
		return page + "?notice=underway", nil
	case errors.Is(err, payments.ErrTooManyAttempts):
		return page + "?notice=attempts", nil
	case paid, errors.Is(err, dedup.ErrInProgress), errors.Is(err, dedup.ErrErased),
		errors.Is(err, payments.ErrOrderNotPayable):
		return page, nil
	case err == nil && answer.Status == http.StatusAccepted: // the charge may wait for the buyer
		return page + "?forward", nil
	}
	return page, err
}
