package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/onceshop/onceshop/internal/shoptest"
)

// restartScript kills the demo and starts it again at the same address.
const restartScript = `kill -9 "$(cat %[1]s/pid)"
SHOP_DATA_DIR=%[1]s/data SHOP_ADDR=%[2]s %[3]s=1 %[4]s demo >%[1]s/log 2>&1 &
echo $! >%[1]s/pid
until grep -q 'Ready in' %[1]s/log; do kill -0 $! || { cat %[1]s/log >&2; exit 1; }; sleep 0.1; done
`

// The demo keeps its promises to the letter, also when it is killed before and after an answer.
func TestTwinOnTheDemo(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	needs(t, "twin", "demo")
	dir := dataDir(t)
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	// Another test's demo takes port 8080 as soon as it is free.
	d := startDemoWith(t, []string{"SHOP_DATA_DIR=" + data, "SHOP_ADDR=" + shoptest.FreeAddr(t)})
	pid := filepath.Join(dir, "pid")
	if err := os.WriteFile(pid, []byte(strconv.Itoa(d.cmd.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		text, _ := os.ReadFile(pid)
		if last, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && last != d.cmd.Process.Pid {
			_ = syscall.Kill(last, syscall.SIGKILL)
		}
	})
	restart := fmt.Sprintf(restartScript, dir, strings.TrimPrefix(d.shop, "http://"), asShop, os.Args[0])
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"twin", d.shop, "--json", "--restart", restart, "--concurrency", "20"}, nil,
		&stdout, &stderr)
	var report struct {
		Rules string
		Lines []struct{ Question, Verdict, Got string }
	}
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil || code != exitFine || stderr.Len() > 0 {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, stdout.String(), stderr.String())
	}
	if report.Rules != "shop" || len(report.Lines) < 20 {
		t.Errorf("%d lines by the rules of %s", len(report.Lines), report.Rules)
	}
	for _, line := range report.Lines {
		wanted := slices.Contains([]string{"twins-two-nodes", "after-5xx", "replay-next-day"}, line.Question)
		if line.Verdict != "ok" && (line.Verdict != "not asked" || !wanted) {
			t.Errorf("%+v", line)
		}
	}
	// The run cancels its orders.
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.shop+"/v1/orders?limit=100", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer demo-alice")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	orders, err := io.ReadAll(answer.Body)
	if err != nil || !bytes.Contains(orders, []byte(`"canceled"`)) || bytes.Contains(orders, []byte(`"placed"`)) {
		t.Errorf("orders stay open: %v %s", err, orders)
	}
}

func TestTwinExitCodes(t *testing.T) {
	t.Parallel()
	needs(t, "twin")
	var n atomic.Int64
	naive := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"id":%d}`, n.Add(1))
	}))
	t.Cleanup(naive.Close)
	body := writeFile(t, "body.json", `{"name":"{{unique}}"}`)
	with := func(flags ...string) []string { return append([]string{naive.URL, "--body", body}, flags...) }
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"harm":          {with("--concurrency", "3"), exitFailed, "questions show harm"},
		"count":         {with("--count", "echo many"), exitFailed, "is no number"},
		"count fails":   {with("--count", "echo no table >&2; false"), exitFailed, "no table"},
		"no demo":       {[]string{naive.URL}, exitWrongUse, "not the demo"},
		"no such file":  {[]string{naive.URL, "--body", body + "x"}, exitWrongUse, "--body"},
		"no such rules": {with("--as", "ucp"), exitWrongUse, "ietf, stripe, acp and shop"},
		"header":        {with("--other-header", "Bearer b"), exitWrongUse, "--other-header"},
		"path":          {with("--path", "orders"), exitWrongUse, "slash"},
		"id":            {with("--id", "id"), exitWrongUse, "--id"},
		"no id":         {with("--id", "$.x"), exitWrongUse, "--id"},
		"silent server": {[]string{"http://127.0.0.1:1", "--body", body}, exitFailed, "does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append([]string{"twin"}, c.args...), nil, &stdout, &stderr)
			if said := stderr.String(); code != c.code || !strings.Contains(said, c.says) ||
				strings.ContainsAny(said, "\r\x1b") {
				t.Errorf("exit code %d\n%s%s", code, stdout.String(), stderr.String())
			}
		})
	}
}
