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
		{ID: "pm_ok", Name: "Test card that works"},
		{ID: "pm_declined", Name: "Test card that is declined"},
		{ID: "pm_insufficient_funds", Name: "Test card without enough money on it"},
		{ID: "pm_requires_action", Name: "Test card whose bank asks you to confirm"},
	}
	faultyCards = []method{
		{ID: "pm_timeout_before_capture", Name: "No answer, no money",
			Hint: "The provider goes silent before it takes anything."},
		{ID: "pm_timeout_after_capture", Name: "No answer, money taken",
			Hint: "The provider takes the money, and its answer never arrives."},
		{ID: "pm_error_before_capture", Name: "Error, no money",
			Hint: "The provider fails with an error before it takes anything."},
		{ID: "pm_error_after_capture", Name: "Error, money taken",
			Hint: "The provider takes the money, and then answers with an error."},
		{ID: "pm_slow", Name: "Slow answer", Hint: "The payment works, but the answer takes three seconds."},
		{ID: "pm_webhook_first", Name: "Webhook arrives first",
			Hint: "The provider's event about the payment arrives before its answer."},
		{ID: "pm_webhook_storm", Name: "Webhook arrives five times",
			Hint: "The provider sends each event five times, in any order."},
		{ID: "pm_timeout_late_webhook", Name: "No answer, late webhook",
			Hint: "The provider takes the money without an answer, and its event comes eight seconds later."},
		{ID: "pm_refund_pending", Name: "Slow refund",
			Hint: "The payment works. A refund of it takes the provider five seconds."},
		{ID: "pm_refund_fails_later", Name: "Refund that fails later",
			Hint: "The payment works. A refund of it is accepted and fails then."},
		{ID: "pm_refund_refused", Name: "Refund refused",
			Hint: "The payment works. The provider refuses to give it back."},
		{ID: "pm_disputed", Name: "Disputed payment",
			Hint: "The payment works. Two seconds later, it is disputed at the bank."},
	}
	realCards   = []method{{ID: "pm_ok", Name: "Card"}}
	stripeCards = []method{
		{ID: "pm_card_visa", Name: "Stripe's test card that works"},
		{ID: "pm_card_chargeDeclined", Name: "Stripe's test card that is declined"},
		{ID: "pm_card_threeDSecure2Required", Name: "Stripe's test card whose bank asks you to confirm"},
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
// which shows the outcome. The number is that of the charges that had ended when the form was
// shown: sending the form again repeats the attempt, and a form shown after a decline makes a new
// one. Package payments makes sure that two attempts cannot both take money.
func (w *Web) pay(c echo.Context, customer, orderID uuid.UUID, try int, methodID string) (string, error) {
	command := payments.ChargeOrder{
		CustomerID:    customer,
		OrderID:       orderID,
		PaymentMethod: methodID,
		Key:           dedup.Key("pay-" + orderID.String() + "-" + strconv.Itoa(try)),
	}
	answer, err := w.once(c, "charges", customer, command.Key, command.Fingerprint(),
		func(ctx context.Context) (dedup.Answer, error) {
			return w.Payments.Charge(ctx, command)
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
	case paid, errors.Is(err, dedup.ErrInProgress), errors.Is(err, payments.ErrOrderNotPayable):
		return page, nil
	case err == nil && answer.Status == http.StatusAccepted: // the charge may wait for the buyer
		return page + "?forward", nil
	}
	return page, err
}
