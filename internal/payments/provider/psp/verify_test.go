package psp_test

import (
	"strings"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/payments/provider/psp"
)

const secret = "whsec_c2VjcmV0IGZvciB0aGUgdGVzdHMgb25seSE="

// The example that Standard Webhooks publishes for its libraries.
func TestSignMatchesThePublishedExample(t *testing.T) {
	t.Parallel()
	got, err := psp.Sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek",
		time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, bad := range []string{"", "whsec_", "c2VjcmV0", "whsec_?"} {
		if _, err := psp.Sign(bad, "id", time.Unix(0, 0), nil); err == nil ||
			!strings.Contains(err.Error(), "PSP_WEBHOOK_SECRET") {
			t.Errorf("secret %q: error %v, want one that names the setting", bad, err)
		}
	}
}
