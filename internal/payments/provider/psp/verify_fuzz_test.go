package psp_test

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/onceshop/onceshop/internal/payments"
	"github.com/onceshop/onceshop/internal/payments/provider/psp"
)

// FuzzReceiver signs any message as the provider does: it is taken within five minutes, either way,
// and not with any one bit of it changed. Unsigned, the same is never taken, whatever stands in the
// headers.
func FuzzReceiver(f *testing.F) {
	f.Add("msg_1", int64(0), "capture", uint16(0), uint8(1), "")
	f.Add("msg_1", int64(300), "c\"\\\u2028", uint16(9), uint8(0x20), "v1,")
	f.Add("msg.1", int64(-300), "1.2.3", uint16(300), uint8(0x80), "v1, v1a,AAAA")
	f.Add("", int64(301), "", uint16(2), uint8(4), "v1,c2lnbmVk v1,AAAA")
	f.Add("msg 1", int64(-301), "\xff", uint16(40), uint8(0xff), "\t")
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	receiver, err := psp.NewReceiver("whsec_b2xk "+secret, func() time.Time { return now })
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, id string, off int64, text string, place uint16, bits uint8, forged string) {
		at := now.Add(time.Duration(off%(1<<32)) * time.Second)
		data, err := json.Marshal(map[string]any{"type": "capture.declined", "timestamp": at,
			"data": payments.Capture{ID: text}})
		if err != nil {
			return // the provider writes UTF-8 only
		}
		signature, err := psp.Sign(secret, id, at, data)
		if err != nil {
			t.Fatal(err)
		}
		seconds := strconv.FormatInt(at.Unix(), 10)
		parts := [][]byte{[]byte(id), []byte(seconds), []byte(signature), data}
		event, err := read(receiver, parts)
		if recent := at.Sub(now).Abs() <= 5*time.Minute; (err == nil) != (recent && id != "") {
			t.Fatalf("signed %s from now: %v", at.Sub(now), err)
		}
		if err == nil && (event.ID != id || string(event.Payload) != string(data) || event.Capture == nil ||
			event.Capture.ID != text) {
			t.Fatalf("signed %s, read %+v", data, event)
		}
		if forged != signature {
			refused(t, receiver, [][]byte{parts[0], parts[1], []byte(forged), parts[3]})
		}
		if bits != 0 {
			n := int(place) % (len(id) + len(seconds) + len(signature) + len(data))
			for i := range parts {
				if n < len(parts[i]) {
					parts[i][n] ^= bits
					break
				}
				n -= len(parts[i])
			}
			refused(t, receiver, parts)
		}
	})
}

// FuzzBody signs any bytes: they are stored or ignored, and never refused as unsigned. The time is
// bounded by their length.
func FuzzBody(f *testing.F) {
	for _, body := range []string{"", "{}", `{"type":"capture.succeeded","data":{"amount":1e200000}}`,
		`{"type":"refund.failed","data":{"id":"\u0000"}}`, `{"type":"dispute.opened","data":{"id":"\ud800"}}`,
		strings.Repeat("[", 60_000), strings.Repeat(`{"a":`, 10_000), `{"type":"` + strings.Repeat("x", 60_000) + `"}`,
		`{"data":` + strings.Repeat("9", 60_000) + `}`} {
		f.Add([]byte(body))
	}
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	receiver, err := psp.NewReceiver(secret, func() time.Time { return now })
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		signature, err := psp.Sign(secret, "msg_1", now, body)
		if err != nil {
			t.Fatal(err)
		}
		parts := [][]byte{[]byte("msg_1"), []byte(strconv.FormatInt(now.Unix(), 10)), []byte(signature), body}
		bound := 50*time.Millisecond + time.Duration(len(body))*5*time.Microsecond
		var took time.Duration
		for range 3 { // other processes may run in between
			begun := time.Now()
			event, err := read(receiver, parts)
			took = time.Since(begun)
			if err != nil || event.ID != "msg_1" || !event.Ignored && string(event.Payload) != string(body) {
				t.Fatalf("%q: %+v, %v", body, event, err)
			}
			if took < bound {
				return
			}
		}
		t.Errorf("%d bytes took %s, want at most %s", len(body), took, bound)
	})
}

func read(receiver *psp.Receiver, parts [][]byte) (payments.Event, error) {
	return receiver.Read(http.Header{"Webhook-Id": {string(parts[0])}, "Webhook-Timestamp": {string(parts[1])},
		"Webhook-Signature": {string(parts[2])}}, parts[3])
}

func refused(t *testing.T, receiver *psp.Receiver, parts [][]byte) {
	t.Helper()
	if event, err := read(receiver, parts); !errors.Is(err, payments.ErrNotSigned) {
		t.Fatalf("%q was not signed and is read as %+v, %v", parts, event, err)
	}
}
