package stripe_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/payments"
)

// FuzzReceiver signs any message as Stripe does: it is taken within five minutes, either way, and
// not with any one bit of it changed. Unsigned, the same is never taken, whatever stands in the
// header.
func FuzzReceiver(f *testing.F) {
	f.Add("evt_1", int64(0), uint16(0), uint8(1), "")
	f.Add("evt\"\\\u2028", int64(300), uint16(9), uint8(0x20), "t=1795435200,v1=")
	f.Add("1.2.3", int64(-300), uint16(20), uint8(0x80), "t=1795435200,t=1795435200,v1=00")
	f.Add("", int64(301), uint16(2), uint8(4), "v1=00,t=1795435200,v0=00")
	f.Add("evt 1", int64(-301), uint16(100), uint8(0xff), "t=+1795435200, v1 = zz")
	f.Fuzz(func(t *testing.T, id string, off int64, place uint16, bits uint8, forged string) {
		at := now.Add(time.Duration(off%(1<<32)) * time.Second)
		body, err := json.Marshal(object{"id": id, "object": "event", "created": now.Unix(),
			"type": "customer.created", "data": object{"object": object{"id": "cus_1"}}})
		if err != nil {
			t.Fatal(err)
		}
		header := fmt.Sprintf("t=%d,v1=%s", at.Unix(), signature(newSecret, at, body))
		r := receiver(t, oldSecret+" "+newSecret)
		read := func(header string, body []byte) (payments.Event, error) {
			return r.Read(http.Header{"Stripe-Signature": {header}}, body)
		}
		event, err := read(header, body)
		if recent := at.Sub(now).Abs() <= 5*time.Minute; errors.Is(err, payments.ErrNotSigned) == recent {
			t.Fatalf("signed %s from now: %v", at.Sub(now), err)
		}
		if err == nil && (string(event.Payload) != string(body) || !event.Ignored && event.Unreadable == "") {
			t.Fatalf("signed %s, read %+v", body, event)
		}
		if event, err := read(forged, body); !strings.EqualFold(forged, header) &&
			!errors.Is(err, payments.ErrNotSigned) {
			t.Fatalf("%q was not signed and is read as %+v, %v", forged, event, err)
		}
		if bits == 0 {
			return
		}
		message := []byte(header + string(body))
		message[int(place)%len(message)] ^= bits
		changed, body := string(message[:len(header)]), message[len(header):]
		if strings.EqualFold(changed, header) && changed != header {
			return // hexadecimal digits mean the same in capitals
		}
		if event, err := read(changed, body); !errors.Is(err, payments.ErrNotSigned) {
			t.Fatalf("%q with %q was not signed and is read as %+v, %v", changed, body, event, err)
		}
	})
}
