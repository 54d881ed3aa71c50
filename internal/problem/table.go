package problem

import "encoding/json"

// Reasons that several kinds share.
const (
	nothingWritten = "Yes. The request was refused before it wrote anything, and its key is still unused."
	mayHappened    = "No. The request may have taken effect, and a new key would ask for a second one."
)

// kinds is the one table of the shop's problems. The API, the pages under /problems and the
// examples of the OpenAPI document all come from it.
var kinds = []Kind{
	{Code: "invalid_request", Status: 400, Title: "Invalid request", SafeNewKey: true,
		Detail: "lines[0].quantity: must be a whole number from 1 to 1000000",
		Meaning: "The body, a parameter or a header breaks a rule of this call. The detail names the " +
			"field.",
		Safety: nothingWritten,
		Remedy: "Correct the field and send the request again, with the same key or another. Unknown and " +
			"repeated fields, trailing data and wrong types count as invalid, and so does anything that looks " +
			"like a card number."},
	{Code: "unknown_sku", Status: 400, Title: "Unknown product", SafeNewKey: true,
		Detail: "The shop has no product with this unknown sku: MUG-TWICE. GET /v1/products lists what " +
			"there is.",
		Meaning: "A line names a product that the shop does not sell.",
		Safety:  nothingWritten,
		Remedy:  "Take the sku from `GET /v1/products`. Case matters."},
	{Code: "idempotency_key_missing", Status: 400, Title: "Idempotency key missing", SafeNewKey: true,
		Detail: "Send an Idempotency-Key header: a name of your choice for this intent, such as a UUID, " +
			"and the same again when you retry.",
		Meaning: "Every call that changes something needs an `Idempotency-Key` header. Without one, a " +
			"lost answer would leave you guessing whether to send the request again.",
		Safety: nothingWritten,
		Remedy: "Make up a key for each intent, such as a UUID. Store it before you send the request, " +
			"and send the same key with every retry."},
	{Code: "idempotency_key_invalid", Status: 400, Title: "Idempotency key invalid", SafeNewKey: true,
		Detail: "Idempotency-Key must be sent once and have 1 to 255 visible ASCII characters, bare or " +
			"as a quoted string.",
		Meaning: "The `Idempotency-Key` header is empty, too long, sent twice, has characters that are " +
			"not visible ASCII, or looks like a payment card number.",
		Safety: nothingWritten,
		Remedy: "Send one header with 1 to 255 visible ASCII characters, bare or as a quoted string. A " +
			"UUID is a good key."},
	{Code: "unauthorized", Status: 401, Title: "Unauthorized", SafeNewKey: true,
		Detail:  "Send a valid token: Authorization: Bearer TOKEN.",
		Meaning: "The request has no token, or its token is wrong, expired or revoked.",
		Safety:  nothingWritten,
		Remedy: "Send the header `Authorization: Bearer TOKEN`. An operator creates a token with `shop " +
			"token --customer EMAIL`."},
	{Code: "declined", Status: 402, Title: "Payment declined", SafeNewKey: true,
		Detail: "The payment was declined (insufficient_funds). Nothing was charged. While the order is " +
			"open, another payment method can pay for it, with a new idempotency key.",
		Meaning: "The payment provider declined the charge. No money moved. The member `charge` has the " +
			"details.",
		Safety: "Yes. This charge has ended without money, and an order has one live charge at most.",
		Remedy: "Ask the buyer for another payment method and charge the order again with a new key. " +
			"This key is bound to the decline and will always repeat it.",
		members: func(p *Problem) {
			p.Charge = json.RawMessage(exampleCharge + `"status":"declined","amount":3450,"amount_refunded":0,` +
				`"currency":"EUR","decline_code":"insufficient_funds","created_at":"2026-11-23T09:42:58.304Z"}`)
		}},
	{Code: "refund_failed", Status: 402, Title: "Refund failed", SafeNewKey: true,
		Detail: "The provider did not give the money back (expired_card). Nothing was refunded: try " +
			"again with a new idempotency key, or another way.",
		Meaning: "The payment provider refused the refund for good. No money moved. The member `refund` " +
			"has the details.",
		Safety: "Yes. This refund has ended without money, and all refunds together never exceed the " +
			"charge.",
		Remedy: "Try again with a new key, or give the money back another way. This key will always " +
			"repeat the failure.",
		members: func(p *Problem) {
			p.Refund = json.RawMessage(`{"id":"01935899-3a80-7e12-a6c4-91f0d2b85e63",` +
				`"charge_id":"01935890-1f40-7c55-9d02-3b8e7f6a2c41","status":"failed","amount":500,` +
				`"currency":"EUR","failure_code":"expired_card","created_at":"2026-11-23T09:52:55.044Z"}`)
		}},
	{Code: "forbidden", Status: 403, Title: "Forbidden", SafeNewKey: true,
		Detail:  "This call needs an admin's token.",
		Meaning: "The token is valid, but the call is for admins and the token belongs to a customer.",
		Safety:  nothingWritten,
		Remedy: "Use an admin's token. An operator creates one with `shop token --customer EMAIL " +
			"--admin`."},
	{Code: "not_found", Status: 404, Title: "Not found", SafeNewKey: true,
		Detail: "There is no such order.",
		Meaning: "The path does not exist, or the object does not, or it belongs to another customer. " +
			"The answers are the same, so they reveal nothing about other customers.",
		Safety: nothingWritten,
		Remedy: "Check the id and the token. An order can be read with the token that placed it, or an " +
			"admin's."},
	{Code: "method_not_allowed", Status: 405, Title: "Method not allowed", SafeNewKey: true,
		Detail:  "This path does not take this method; see the Allow header and /v1/openapi.yaml.",
		Meaning: "The path exists, but not with this method.",
		Safety:  nothingWritten,
		Remedy:  "Use one of the methods in the `Allow` header."},
	{Code: "out_of_stock", Status: 409, Title: "Out of stock", SafeNewKey: true,
		Detail: "Nothing was ordered: out of stock: LAST-ONE (asked for 2, 1 left).",
		Meaning: "At least one product has fewer units than the order asks for. An order gets all its " +
			"units or none. The member `items` lists the products that are short.",
		Safety: nothingWritten,
		Remedy: "Lower the quantities to what is available, or try again after a delivery. The same key " +
			"works.",
		members: func(p *Problem) {
			p.Items = json.RawMessage(`[{"sku":"LAST-ONE","requested":2,"available":1}]`)
		}},
	{Code: "price_changed", Status: 409, Title: "Price changed", SafeNewKey: true,
		Detail: "Nothing was ordered: the order now costs €34.50. Ask the buyer, then send the new total.",
		Meaning: "The order does not cost what `expected_total` and `currency` name. The members `total` " +
			"and `currency` have today's price.",
		Safety: nothingWritten,
		Remedy: "Show the buyer the new total. If the buyer agrees, send the request with the new " +
			"`expected_total`.",
		members: func(p *Problem) {
			p.Total, p.Currency = new(int64(3450)), "EUR"
		}},
	{Code: "request_in_progress", Status: 409, Title: "Request in progress",
		Detail:  "The first request with this key is still running. Send it again with the same key.",
		Meaning: "An earlier request with this key has not finished. This one did nothing.",
		Safety:  mayHappened,
		Remedy:  "Wait for the seconds in `Retry-After`, then send the same request with the same key."},
	{Code: "charge_in_progress", Status: 409, Title: "Charge in progress",
		Detail: "Another charge for this order is not settled yet. Do not pay again: ask for that charge.",
		Meaning: "The order has a live charge that was made with another key. The member `charge_id` " +
			"names it.",
		Safety: "No. If the live charge is declined, a new key would charge the order again.",
		Remedy: "Read the charge in `charge_id` until it succeeds or is declined. Pay again only after a " +
			"decline.",
		members: func(p *Problem) { p.ChargeID = exampleChargeID }},
	{Code: "order_already_paid", Status: 409, Title: "Order already paid",
		Detail: "Another charge has paid this order. Nothing was charged now.",
		Meaning: "The order was paid with another key. The member `charge_id` names the charge that paid " +
			"it, if it is known.",
		Safety: "No. The payment took effect. If you place a new order with a new key, the buyer pays " +
			"twice.",
		Remedy:  "Treat the order as paid. Read the charge in `charge_id` for its receipt.",
		members: func(p *Problem) { p.ChargeID = exampleChargeID }},
	{Code: "order_not_payable", Status: 409, Title: "Order not payable", SafeNewKey: true,
		Detail:  "The order was canceled, has expired or was refunded. Place a new one.",
		Meaning: "The order has ended. Its stock has been given back, so it can no longer be paid.",
		Safety:  "Yes. Nothing was charged, and the order cannot be charged again.",
		Remedy:  "Place a new order, with a new key."},
	{Code: "too_many_attempts", Status: 409, Title: "Too many attempts", SafeNewKey: true,
		Detail: "Too many payments of this order were declined. Nothing was charged: place a new order.",
		Meaning: "The order has reached its limit of declined charges. The limit protects against card " +
			"testing.",
		Safety: "Yes. Nothing was charged, and the order cannot be charged again.",
		Remedy: "Place a new order, with a new key."},
	{Code: "order_not_cancelable", Status: 409, Title: "Order not cancelable", SafeNewKey: true,
		Detail: "The order has ended already, or was paid too long ago.",
		Meaning: "The order is canceled, expired or refunded, or the time in which a customer may cancel " +
			"it is over.",
		Safety: nothingWritten,
		Remedy: "Read the order to see its status. An admin can cancel a paid order at any time."},
	{Code: "refund_exceeds_charge", Status: 409, Title: "Refund exceeds the charge", SafeNewKey: true,
		Detail: "Nothing was refunded: you asked for €35.00, and the charge can still give back €29.50.",
		Meaning: "The charge has less left to refund than the request asks for. Refunds in progress " +
			"count. The member refundable has the rest.",
		Safety:  nothingWritten,
		Remedy:  "Ask for the amount in `refundable` at most, or leave the amount out to refund the rest.",
		members: func(p *Problem) { p.Refundable = new(int64(2950)) }},
	{Code: "charge_disputed", Status: 409, Title: "Charge disputed", SafeNewKey: true,
		Detail: "The buyer disputes this charge at the bank. Nothing was refunded: wait until the " +
			"dispute is closed.",
		Meaning: "The buyer has asked the bank for the money. A refund during a dispute could give it " +
			"back twice.",
		Safety: nothingWritten,
		Remedy: "Wait until the charge's dispute is won or lost, then decide."},
	{Code: "erased", Status: 410, Title: "Erased",
		Detail: "The request with this key took effect, and its data has been erased since. Nothing was " +
			"done now. A new key would do it a second time.",
		Meaning: "The request with this key took effect long ago. Then a person asked for their data to " +
			"be erased, so the stored answer is gone. The key stays used.",
		Safety: "No. The effect stands, and a new key would cause a second one.",
		Remedy: "Stop retrying. If you really want the effect a second time, send a new key."},
	{Code: "too_large", Status: 413, Title: "Body too large", SafeNewKey: true,
		Detail:  "The body must not be larger than 64 KiB.",
		Meaning: "The body has more than 64 KiB, after decompression.",
		Safety:  nothingWritten,
		Remedy:  "Send less. An order with 100 lines fits."},
	{Code: "misdirected_request", Status: 421, Title: "Misdirected request", SafeNewKey: true,
		Detail: "The demo answers only to localhost, or to the host of SHOP_URL.",
		Meaning: "The demo was reached under a name that is not its own. Another site may have pointed " +
			"its name here.",
		Safety: nothingWritten,
		Remedy: "Open the demo as localhost or 127.0.0.1, or name its address in `SHOP_URL`."},
	{Code: "idempotency_key_reused", Status: 422, Title: "Idempotency key reused",
		Detail: "This key stands for another request that you sent before. Nothing was done. Use one key " +
			"per intent.",
		Meaning: "You have used this key for a request with another meaning: another body, or another " +
			"order or charge. White space and the order of JSON fields do not change the meaning.",
		Safety: "No, unless you mean a second effect: the first request with this key took effect.",
		Remedy: "Check which intent this key belongs to. To retry it, send the first body. For another " +
			"intent, make up another key."},
	{Code: "too_many_requests", Status: 429, Title: "Too many requests", SafeNewKey: true,
		Detail: "Nothing was done. Send the same request with the same key again, after the seconds that " +
			"Retry-After names.",
		Meaning: "This client sends more requests than the shop accepts from one token or network " +
			"address.",
		Safety: nothingWritten,
		Remedy: "Wait for the seconds in `Retry-After`, then send the same request with the same key."},
	{Code: "too_many_unpaid_orders", Status: 429, Title: "Too many unpaid orders", SafeNewKey: true,
		Detail:  "Nothing was ordered: pay or cancel the open orders, or wait until they expire.",
		Meaning: "This customer has as many unpaid orders as the shop allows. Each one reserves stock.",
		Safety:  nothingWritten,
		Remedy:  "Pay or cancel an open order, or wait until one expires. Then the same key works."},
	{Code: "internal", Status: 500, Title: "Internal error",
		Detail: "Something went wrong on our side, and it may have happened. Send the same request with " +
			"the same key again.",
		Meaning: "The shop failed in a way that it did not expect. Its log has the cause, under the " +
			"answer's `X-Request-Id`.",
		Safety: mayHappened,
		Remedy: "Send the same request with the same key again. The answer then tells what happened."},
	{Code: "unavailable", Status: 503, Title: "Unavailable",
		Detail: "The shop could not finish this now, and it may have happened. Send the same request " +
			"with the same key again.",
		Meaning: "The shop or its database is down, starting, or overloaded.",
		Safety:  mayHappened,
		Remedy:  "Wait for the seconds in `Retry-After`, then send the same request with the same key."},
}

const (
	exampleChargeID = "01935890-1f40-7c55-9d02-3b8e7f6a2c41"
	exampleCharge   = `{"id":"` + exampleChargeID + `","order_id":"0193588e-6c00-7a3b-8f21-5d0c9e4b7a10",`
)
