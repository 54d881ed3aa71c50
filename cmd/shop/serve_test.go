package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// The service in two processes, on the servers of a demo: ready, deaf to the demo's tokens, and
// open to real ones.
func TestServeSplit(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	dir := dataDir(t)
	demo := startDemo(t, dir)
	data, err := os.ReadFile(filepath.Join(dir, "running.json"))
	if err != nil {
		t.Fatal(err)
	}
	var servers app.Running
	if err := json.Unmarshal(data, &servers); err != nil {
		t.Fatal(err)
	}
	environ := []string{"DATABASE_URL=" + servers.DatabaseURL, "REDIS_URL=" + servers.RedisURL,
		"NATS_URL=" + servers.NATSURL, "SMTP_URL=" + servers.SMTPURL,
		"PSP_URL=" + servers.Provider, "PSP_WEBHOOK_SECRET=whsec_c2VjcmV0",
		"SHOP_SECRET=a-secret-for-tests-32-bytes-long!", "SHOP_URL=http://localhost:8080",
		"HOME=" + t.TempDir()}
	var token, errors bytes.Buffer
	if code := run(t.Context(), []string{"token", "--customer=carol@example.com"}, environ, &token,
		&errors); code != exitFine {
		t.Fatalf("token: %s", errors.String())
	}
	web := newProcess("http://" + shoptest.FreeAddr(t))
	workers := newProcess("http://" + shoptest.FreeAddr(t))
	web.serve(t, environ, "--only=web", "SHOP_ADDR="+web.shop[len("http://"):], "SHOP_OPS_ADDR="+shoptest.FreeAddr(t))
	workers.serve(t, environ, "--only=workers", "SHOP_OPS_ADDR="+workers.shop[len("http://"):])
	for name, p := range map[string]*demoProcess{"web": web, "workers": workers} {
		shoptest.Eventually(t, 20*time.Second, name+" is ready", func() bool { return p.ready(t) })
	}
	for token, want := range map[string]int{"demo-alice": http.StatusUnauthorized,
		"demo-admin": http.StatusUnauthorized, strings.TrimSpace(token.String()): http.StatusOK} {
		if status := web.get(t, "/v1/orders", token); status != want {
			t.Errorf("%s: %d, want %d", token, status, want)
		}
	}
	if status := web.get(t, "/metrics", ""); status != http.StatusNotFound {
		t.Errorf("/metrics on the public address: %d", status)
	}
	for name, p := range map[string]*demoProcess{"web": web, "workers": workers, "demo": demo} {
		if err := p.stop(t, syscall.SIGTERM); err != nil {
			t.Errorf("%s: %v\n%s", name, err, p.output)
		}
	}
}

func (d *demoProcess) serve(t *testing.T, environ []string, only string, more ...string) {
	t.Helper()
	d.cmd = exec.CommandContext(t.Context(), os.Args[0], "serve", only)
	d.cmd.Env = append(append(environ[:len(environ):len(environ)], asShop+"=1"), more...)
	d.cmd.Stdout, d.cmd.Stderr = d.output, d.output
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.exited <- d.cmd.Wait() }()
	t.Cleanup(func() { _ = d.cmd.Process.Kill() })
}

func (d *demoProcess) ready(t *testing.T) bool {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.shop+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}
