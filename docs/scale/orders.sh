#!/usr/bin/env bash
# Places N orders and pays for them, eight at a time: docs/scale/orders.sh N. SHOP is the shop's address, TOKEN a customer's.
set -euo pipefail

buy() {
  local ask=(curl --silent --show-error --fail -H "Authorization: Bearer ${TOKEN:-demo-alice}") order
  order=$("${ask[@]}" "$SHOP/v1/orders" -H "Idempotency-Key: $RUN-$1" \
    -d '{"email":"alice@example.com","lines":[{"sku":"MUG-ONCE","quantity":1}]}' | sed -E 's/.*"id":"([^"]+)".*/\1/')
  "${ask[@]}" --output /dev/null "$SHOP/v1/orders/$order/charges" -H "Idempotency-Key: $RUN-$1-pay" \
    -d '{"payment_method":"pm_ok"}'
}
export -f buy
RUN=scale-$(date +%s) SHOP=${SHOP:-http://127.0.0.1:8080}
export RUN SHOP
seq "$1" | xargs -P 8 -I{} bash -c 'buy {}'
