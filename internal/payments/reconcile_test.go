package payments_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/onceshop/onceshop/internal/dedup"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
)

const paidOnce = "paid | succeeded 0 | reserved sold | placed paying paid"

// row is everything a charge's or refund's row says.
func (b *bundle) row(t testing.TB, table string, id uuid.UUID) string {
	t.Helper()
	return b.text(t, "SELECT x::text FROM "+table+" x WHERE id = $1", id)
}

// charging starts a charge in the background and returns what it will say.
func (b *bundle) charging(t testing.TB, order orders.Order, key dedup.Key) <-chan dedup.Answer {
	t.Helper()
	done := make(chan dedup.Answer, 1)
	go func() {
		answer, err := b.shop.Charge(t.Context(), b.chargeOf(order, key))
		if err != nil {
			t.Errorf("charge: %v", err)
		}
		done <- answer
	}()
	return done
}

// A worker stops in the middle of its call, its lease runs out and another takes over without
// getting to know the outcome. Unless the first one comes back with a success, the charge stays as
// the second one left it.
func TestStaleWorkerChangesNothing(t *testing.T) {
	t.Parallel()
	for name, verdict := range map[string]error{"with a success": nil, "with a refusal": payments.ErrRefused,
		"with nothing": errCut} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			order := b.place(t)
			arrived, goOn := b.line.hold()
			answer := b.charging(t, order, "c")
			<-arrived
			id, other := b.takenOver(t, "charges")
			before := b.row(t, "charges", id)

			goOn <- verdict
			if verdict == nil { // money that has moved is never ignored
				if got := <-answer; got.Status != http.StatusCreated {
					t.Errorf("the stale worker says %d %s", got.Status, got.Body)
				}
				b.settleAll(t)
				b.expectTrail(t, order, paidOnce)
				return
			}
			if got := <-answer; got.Status != http.StatusAccepted {
				t.Errorf("the stale worker says %d %s", got.Status, got.Body)
			}
			if after := b.row(t, "charges", id); after != before {
				t.Errorf("the charge is now\n%s\nthe second worker left\n%s", after, before)
			}
			if refused := b.log.Has("a stale worker was refused"); refused != !errors.Is(verdict, errCut) {
				t.Errorf("logged that a stale worker was refused: %v", refused)
			}
			b.expectTrail(t, order, "paying | unknown 0 | reserved | placed paying")
			other.heal()
			b.settleAll(t)
			b.expectTrail(t, order, paidOnce)
		})
	}
}

// takenOver lets the lease of the one open charge or refund run out, and a second worker, whose
// line is cut, take it over.
func (b *bundle) takenOver(t testing.TB, table string) (id uuid.UUID, other *line) {
	t.Helper()
	b.timePasses(t)
	other = b.line.again()
	other.cut()
	if n, err := b.node(t, other).ReconcileOnce(t.Context()); n != 1 || err != nil {
		t.Fatalf("the second worker took %d, %v", n, err)
	}
	if err := b.pool.QueryRow(t.Context(),
		"SELECT id FROM "+table+" WHERE status = 'unknown' AND attempt = 2").Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id, other
}

// The reconciler itself can be the stale one, and the other worker can have finished.
func TestStaleReconcilerAfterTheEnd(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	b.line.cut()
	charge := b.charge(t, order, "c", 202)
	b.line.heal()
	arrived, goOn := b.line.hold()
	b.timePasses(t)
	done := make(chan error, 1)
	go func() {
		_, err := b.shop.ReconcileOnce(t.Context())
		done <- err
	}()
	<-arrived
	b.timePasses(t)
	if n, err := b.node(t, b.line.again()).ReconcileOnce(t.Context()); n != 1 || err != nil {
		t.Fatalf("the second worker took %d, %v", n, err)
	}
	b.expectTrail(t, order, paidOnce)
	before := b.row(t, "charges", charge.ID)
	goOn <- payments.ErrRefused
	if err := <-done; err != nil {
		t.Error(err)
	}
	if after := b.row(t, "charges", charge.ID); after != before {
		t.Errorf("the charge is now\n%s\nbefore\n%s", after, before)
	}
	b.expectTrail(t, order, paidOnce)
}

func TestStaleRefund(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	charge := b.charge(t, order, "c", 201)
	arrived, goOn := make(chan struct{}), make(chan error, 1)
	b.line.onRefund(func(ctx context.Context, ask func() (payments.ProviderRefund, error)) (payments.ProviderRefund,
		error) {
		close(arrived)
		if err := wait(ctx, goOn); err != nil {
			return payments.ProviderRefund{}, err
		}
		return ask()
	})
	answer := make(chan dedup.Answer, 1)
	go func() {
		got, err := b.shop.Refund(t.Context(), b.refund(charge, "r", nil))
		if err != nil {
			t.Errorf("refund: %v", err)
		}
		answer <- got
	}()
	<-arrived
	b.takenOver(t, "refunds")
	goOn <- nil
	if got := <-answer; got.Status != http.StatusCreated { // money that has moved is never ignored
		t.Errorf("the stale worker says %d %s", got.Status, got.Body)
	}
	b.line.heal()
	b.settleAll(t)
	b.expectTrail(t, order, theEnd)
}

// crash leaves what a process leaves that dies while it asks the provider, before or after the
// request has got there.
func (b *bundle) crash(t testing.TB, order orders.Order, reached bool) payments.Charge {
	t.Helper()
	b.line.cut()
	if reached {
		b.line.onCapture(loseAnswer)
	}
	charge := b.charge(t, order, dedup.Key(order.ID.String()), 202)
	b.exec(t, "UPDATE charges SET status = 'pending' WHERE id = $1", charge.ID)
	b.line.heal()
	b.line.asked.captures.Store(0)
	return charge
}

func TestCrashBetweenAttemptAndSettlement(t *testing.T) {
	t.Parallel()
	for name, reached := range map[string]bool{"before the capture": false, "after the capture": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			order := b.place(t)
			charge := b.crash(t, order, reached)
			command := b.chargeOf(order, dedup.Key(order.ID.String()))
			if _, err := b.shop.Charge(t.Context(), command); !errors.Is(err, dedup.ErrInProgress) {
				t.Errorf("the key while nobody works on it: %v", err)
			}
			b.reconcile(t) // its lease is not over
			b.expectTrail(t, order, "paying | pending 0 | reserved | placed paying")
			b.timePasses(t)
			b.reconcile(t)
			b.expectTrail(t, order, paidOnce)
			if asked := b.line.asked.captures.Load(); asked != 1 && !reached || asked != 0 && reached {
				t.Errorf("asked for the money %d times", asked)
			}
			if captures := b.line.captures(t, charge.ID); len(captures) != 1 {
				t.Errorf("captures %+v", captures)
			}
			first := b.answer(t, command)
			if again := b.answer(t, command); first.Status != 201 || !again.Replayed ||
				!bytes.Equal(again.Body, first.Body) {
				t.Errorf("the key is answered %d %s and %s", first.Status, first.Body, again.Body)
			}
		})
	}
}

func (b *bundle) answer(t testing.TB, c payments.ChargeOrder) dedup.Answer {
	t.Helper()
	answer, err := b.shop.Charge(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestCrashOfARefund(t *testing.T) {
	t.Parallel()
	for name, reached := range map[string]bool{"before the provider has it": false, "after": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			order := b.place(t)
			charge := b.charge(t, order, "c", 201)
			b.line.onRefund(func(_ context.Context,
				ask func() (payments.ProviderRefund, error)) (payments.ProviderRefund, error) {
				if reached {
					if _, err := ask(); err != nil {
						t.Error(err)
					}
				}
				return payments.ProviderRefund{}, errCut
			})
			if answer, err := b.shop.Refund(t.Context(), b.refund(charge, "r", nil)); err != nil ||
				answer.Status != 202 {
				t.Fatalf("%d %s %v", answer.Status, answer.Body, err)
			}
			b.exec(t, "UPDATE refunds SET status = 'pending'")
			b.line.heal()
			b.settleAll(t)
			b.expectTrail(t, order, theEnd)
			if _, gave := b.provider(t, charge.ID); gave != 100 {
				t.Errorf("the provider gave back %d", gave)
			}
		})
	}
}

// started moves the start of a charge or refund into the past.
func (b *bundle) started(t testing.TB, table, ago string) {
	t.Helper()
	b.exec(t, "UPDATE "+table+" SET started_at = now() - $1::interval, asked_at = now() - $1::interval", ago)
}

// When the provider may have forgotten the key, asking under it again could take the money twice:
// then we only look.
func TestForgottenKeyIsNeverUsedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	charge := b.crash(t, order, false)
	b.started(t, "charges", "12 hours 1 second")
	b.timePasses(t)
	b.reconcile(t)
	if asked, looked := b.line.asked.captures.Load(), b.line.asked.finds.Load(); asked != 0 || looked == 0 {
		t.Errorf("asked for the money %d times, looked %d times", asked, looked)
	}
	b.expectTrail(t, order, "placed | declined not_captured 0 | reserved | placed paying payment_declined")
	if got := b.answer(t, b.chargeOf(order, dedup.Key(order.ID.String()))); got.Status != 402 {
		t.Errorf("the key is answered %d %s", got.Status, got.Body)
	}
	if captures := b.line.captures(t, charge.ID); len(captures) != 0 {
		t.Errorf("captures %+v", captures)
	}
	b.charge(t, order, "another try", 201)
}

// A charge that is given up is canceled at the provider: the request that was thought lost arrives
// and moves no money.
func TestGivenUpIsCanceledAtTheProvider(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	charge := b.crash(t, order, false)
	b.started(t, "charges", "12 hours 1 second")
	b.settleAll(t)
	b.arrive(t, order, charge)
	if captures := b.line.captures(t, charge.ID); len(captures) != 0 {
		t.Errorf("captures %+v", captures)
	}
	b.expectTrail(t, order, "placed | declined not_captured 0 | reserved | placed paying payment_declined")
}

// arrive brings a request to the provider that was thought lost.
func (b *bundle) arrive(t testing.TB, order orders.Order, charge payments.Charge) payments.Capture {
	t.Helper()
	capture, err := b.line.provider.Capture(t.Context(), payments.CaptureRequest{Key: "charge_" + charge.ID.String(),
		Reference: charge.ID.String(), OrderID: order.ID.String(), Amount: charge.Amount, Currency: charge.Currency,
		PaymentMethod: "pm_ok"})
	if err != nil {
		t.Fatal(err)
	}
	return capture
}

func TestForgottenKeyOfACapture(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	b.crash(t, order, true)
	b.started(t, "charges", "3 days")
	b.settleAll(t)
	b.expectTrail(t, order, paidOnce)
	if asked := b.line.asked.captures.Load(); asked != 0 {
		t.Errorf("asked for the money %d times", asked)
	}
}

func TestKeyIsUsedAgainWithinItsLifetime(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := b.place(t)
	b.crash(t, order, false)
	b.started(t, "charges", "11 hours 59 minutes")
	b.settleAll(t)
	b.expectTrail(t, order, paidOnce)
	if asked := b.line.asked.captures.Load(); asked != 1 {
		t.Errorf("asked for the money %d times", asked)
	}
}

// A refund whose key is forgotten is looked for. One that was never made has failed, once no
// request can be on its way any more.
func TestForgottenKeyOfARefund(t *testing.T) {
	t.Parallel()
	for name, made := range map[string]bool{"made": true, "never made": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			order := b.place(t)
			charge := b.charge(t, order, "c", 201)
			b.line.onRefund(func(_ context.Context,
				ask func() (payments.ProviderRefund, error)) (payments.ProviderRefund, error) {
				if made {
					if _, err := ask(); err != nil {
						t.Error(err)
					}
				}
				return payments.ProviderRefund{}, errCut
			})
			if answer, err := b.shop.Refund(t.Context(), b.refund(charge, "r", nil)); err != nil ||
				answer.Status != 202 {
				t.Fatalf("%d %s %v", answer.Status, answer.Body, err)
			}
			b.line.heal()
			b.line.asked.refunds.Store(0)
			b.exec(t, "UPDATE refunds SET started_at = now() - interval '13 hours'")
			b.timePasses(t)
			b.reconcile(t)
			if asked := b.line.asked.refunds.Load(); asked != 0 {
				t.Errorf("asked for the refund %d times", asked)
			}
			if made {
				b.expectTrail(t, order, theEnd)
				return
			}
			b.expectTrail(t, order, "paid | succeeded 0 | requested unknown 100 | reserved sold | placed paying paid")
			b.exec(t, "UPDATE refunds SET asked_at = now() - interval '36 seconds'")
			b.settleAll(t)
			b.expectTrail(t, order, "paid | succeeded 0 | requested failed 100 | reserved sold | placed paying paid")
			for range 2 {
				answer, err := b.shop.Refund(t.Context(), b.refund(charge, "r", nil))
				if err != nil || answer.Status != 402 || !answer.Replayed {
					t.Errorf("the key of the failed refund: %d %s %v", answer.Status, answer.Body, err)
				}
			}
		})
	}
}

// The money of a charge that was given up comes after all: it goes back, and another charge can pay
// for the order.
func TestGivenUpAndCapturedAfterAll(t *testing.T) {
	t.Parallel()
	for name, paid := range map[string]bool{"not paid anew": false, "paid anew": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			order := b.place(t)
			charge := b.crash(t, order, false)
			b.started(t, "charges", "13 hours")
			b.line.onCancel(func(context.Context, func() (payments.Capture, error)) (payments.Capture, error) {
				return payments.Capture{Reference: charge.ID.String(), Status: payments.CaptureCanceled}, nil // untrue
			})
			b.settleAll(t)
			if paid {
				b.charge(t, order, "anew", 201)
			}
			capture := b.arrive(t, order, charge)
			for range 3 {
				if err := b.shop.Receive(t.Context(), captureEvent(capture)); err != nil {
					t.Error(err)
				}
			}
			if !paid {
				b.charge(t, order, "anew", 201)
			}
			b.settleAll(t)
			b.expectTrail(t, order, "paid | succeeded 100, succeeded 0 | late succeeded 100 | reserved sold | "+
				"placed paying payment_declined paying paid")
		})
	}
}

// An answer that cannot be read, or is about something else, says nothing about the money.
func TestGarbageIsNoAnswer(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, garble := range map[string]func(*http.Response, string) string{
		"no JSON": func(_ *http.Response, _ string) string { return "<html>It works!</html>" },
		"nothing": func(_ *http.Response, _ string) string { return "" },
		"half":    func(_ *http.Response, body string) string { return body[:len(body)/2] },
		"another amount": func(_ *http.Response, body string) string {
			return strings.Replace(body, `"amount":100`, `"amount":1`, 1)
		},
		"another currency": func(_ *http.Response, body string) string {
			return strings.Replace(body, "EUR", "JPY", 1)
		},
		"another status": func(_ *http.Response, body string) string {
			return strings.Replace(body, "succeeded", "perhaps", 1)
		},
		"a redirect": func(r *http.Response, body string) string {
			r.StatusCode = http.StatusFound
			r.Header.Set("Location", "/")
			return body
		},
		"a bare 404": func(r *http.Response, _ string) string { r.StatusCode = http.StatusNotFound; return "not here" },
	} {
		order := b.place(t)
		garbled := b.node(t, garbledClient(t, b.line, garble))
		answer, err := garbled.Charge(t.Context(), b.chargeOf(order, dedup.Key(name)))
		if err != nil || answer.Status != 202 {
			t.Errorf("%s: %d %s %v", name, answer.Status, answer.Body, err)
		}
		// Looking meets the same garbage.
		b.timePasses(t)
		if _, err := garbled.ReconcileOnce(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := b.trail(t, order); got != "paying | unknown 0 | reserved | placed paying" {
			t.Errorf("%s is believed: %s", name, got)
		}
		b.settleAll(t)
		if got := b.trail(t, order); got != paidOnce {
			t.Errorf("%s ends as %s", name, got)
		}
	}
}

// garbledClient is a client behind a proxy that changes every answer about a capture.
func garbledClient(t testing.TB, l *line, garble func(*http.Response, string) string) *psp.Client {
	t.Helper()
	upstream, err := url.Parse(l.address)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(upstream) },
		ModifyResponse: func(r *http.Response) error {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			garbled := garble(r, string(body))
			r.Header.Del("Content-Length")
			r.ContentLength, r.Body = int64(len(garbled)), io.NopCloser(strings.NewReader(garbled))
			return nil
		},
	}
	listening := httptest.NewServer(proxy)
	client := psp.NewClient(listening.URL, policy.ProviderTimeout)
	t.Cleanup(func() {
		client.CloseIdleConnections()
		listening.Close()
		transport.CloseIdleConnections()
	})
	return client
}
