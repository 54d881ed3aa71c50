package app_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/api/apitest"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// Where there is a GET in the API, and on the health checks and pages, there is a HEAD with the
// same status and headers, and no body.
func TestHeadWhereverThereIsGet(t *testing.T) {
	t.Parallel()
	a, err := app.New(t.Context(), webConfig(t, shoptest.DatabaseURL(t)), app.OnlyWeb, apptest.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	handler := a.PublicHandler()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	ask := func(method, path string) string {
		request, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+accounts.DemoAlice)
		answer, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if body, err := io.ReadAll(answer.Body); err != nil || method == http.MethodHead && len(body) > 0 {
			t.Errorf("%s %s: body %q, %v", method, path, body, err)
		}
		return fmt.Sprint(answer.StatusCode, answer.Header["Content-Type"], answer.Header["Cache-Control"])
	}
	asked := 0
	for _, route := range handler.Routes() {
		if route.Method != http.MethodGet || strings.HasSuffix(route.Path, "/events") {
			continue
		}
		asked++
		path := strings.NewReplacer(":id", "01890a5d-ac96-774b-bcce-b302099a8057", ":sku", "MUG-ONCE",
			"*", "style.css").Replace(route.Path)
		if get, head := ask(http.MethodGet, path), ask(http.MethodHead, path); get != head {
			t.Errorf("%s: GET %s, HEAD %s", path, get, head)
		}
	}
	if asked < 20 {
		t.Errorf("only %d routes with GET", asked)
	}
}

// startNode runs a whole node and returns its public and its operators' address.
func startNode(t *testing.T, config app.Config, log io.Writer) (public, ops string) {
	t.Helper()
	a, err := app.New(t.Context(), config, app.Everything, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	var listeners [2]net.Listener
	for i := range listeners {
		listeners[i], err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error)
	go func() { ended <- a.Run(t.Context(), listeners[0], listeners[1]) }()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "http://" + listeners[0].Addr().String(), "http://" + listeners[1].Addr().String()
}

func read(t *testing.T, address string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// Without Redis, mail, provider and broker a node stays in the balancer and takes orders. Operators
// see what is missing, buyers do not.
func TestReadyWithoutTheOthers(t *testing.T) {
	t.Parallel()
	url := shoptest.DatabaseURL(t)
	apptest.Seed(t, shoptest.Pool(t, url))
	config := webConfig(t, url)
	config.RedisURL, config.BrokerURL = "redis://127.0.0.1:1", "nats://127.0.0.1:1"
	config.SMTPURL = "smtp://127.0.0.1:1"
	config.Demo = true // for its tokens
	var log shoptest.Transcript
	public, ops := startNode(t, config, &log)
	for _, address := range []string{public, ops} {
		if status, body := read(t, address+"/readyz"); status != http.StatusOK || body != `{"status":"ready"}`+"\n" {
			t.Errorf("%s: %d %s", address, status, body)
		}
	}
	answer := apitest.NewClient(t, public, accounts.DemoAlice).
		Post(t.Context(), "/v1/orders", "k", apptest.OrderBody("alice@example.com", "MUG-ONCE", 1))
	if answer.Status != http.StatusCreated {
		t.Errorf("an order: %d %s", answer.Status, answer.Body)
	}
	var is struct {
		Status string
		Checks map[string]string
	}
	status, body := read(t, ops+"/statusz")
	if err := json.Unmarshal([]byte(body), &is); err != nil || status != http.StatusOK || is.Status != "degraded" {
		t.Errorf("statusz: %d %s %v", status, body, err)
	}
	for name, want := range map[string]string{"postgres": "ok", "schema": "ok", "redis": "down", "broker": "down",
		"mail": "down", "payment provider": "down"} {
		if is.Checks[name] != want {
			t.Errorf("%s is %q, want %q", name, is.Checks[name], want)
		}
	}
	_, metrics := read(t, ops+"/metrics")
	if !strings.Contains(metrics, `onceshop_dependency_up{dependency="redis"} 0`) ||
		!strings.Contains(metrics, `onceshop_dependency_up{dependency="postgres"} 1`) {
		t.Error("the metrics do not show what is down")
	}
	if status, _ := read(t, public+"/statusz"); status != http.StatusNotFound {
		t.Errorf("statusz on the public address: %d", status)
	}
}

// A flood of health checks costs one look a second. A database that takes no writes takes the node
// out.
func TestReadyIsOneProbeASecond(t *testing.T) {
	t.Parallel()
	url := shoptest.DatabaseURL(t)
	pool := shoptest.Pool(t, url)
	config := webConfig(t, url)
	config.RedisURL, config.BrokerURL = "redis://127.0.0.1:1", "nats://127.0.0.1:1"
	config.SMTPURL = "smtp://127.0.0.1:1"
	var log shoptest.Transcript
	public, _ := startNode(t, config, &log)
	if _, err := pool.Exec(t.Context(), `DO $$ BEGIN EXECUTE
		format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
		t.Fatal(err)
	}
	shoptest.Eventually(t, time.Minute, "the node is not ready", func() bool {
		status, body := read(t, public+"/readyz")
		return status == http.StatusServiceUnavailable && body == `{"status":"not ready"}`+"\n"
	})
	begun, before := time.Now(), strings.Count(log.String(), `msg="not ready"`)
	var probes sync.WaitGroup
	for range 8 {
		probes.Go(func() {
			for range 100 {
				if status, _ := read(t, public+"/readyz"); status != http.StatusServiceUnavailable {
					t.Errorf("ready: %d", status)
				}
			}
		})
	}
	probes.Wait()
	most := 2 + int(time.Since(begun)/time.Second)
	if n := strings.Count(log.String(), `msg="not ready"`) - before; n > most {
		t.Errorf("%d looks at the database in %s, want at most %d", n, time.Since(begun), most)
	}
}
