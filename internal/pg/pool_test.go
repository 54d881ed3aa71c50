package pg_test

import (
	"strings"
	"testing"

	"github.com/onceshop/onceshop/internal/pg"
)

func TestOpenBoundsItsSessions(t *testing.T) {
	t.Parallel()
	pool, _ := setup(t)
	for setting, want := range map[string]string{
		"application_name":                    "onceshop",
		"statement_timeout":                   "30s",
		"idle_in_transaction_session_timeout": "15s",
	} {
		if got := query[string](t, pool, `SELECT current_setting($1)`, setting); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"postgres://shop:s3cret@h:port/shop",
		"postgres://shop:s3cret@h/shop?sslmode=maybe",
		"host=h user=shop password=s3cret port=none",
		"http://shop:s3cret@h/shop",
	} {
		pool, err := pg.Open(t.Context(), url, 1)
		if err == nil {
			pool.Close()
			t.Errorf("%s is accepted", url)
			continue
		}
		if !strings.Contains(err.Error(), "DATABASE_URL") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the error is %q, want one that names the setting and gives nothing away", err)
		}
	}
}
