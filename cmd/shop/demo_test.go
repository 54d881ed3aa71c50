package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// demoProcess is `shop demo`, run as a newcomer runs it.
type demoProcess struct {
	cmd    *exec.Cmd
	shop   string
	output *shoptest.Transcript
	exited chan error
}

func newProcess(shop string) *demoProcess {
	return &demoProcess{shop: shop, output: &shoptest.Transcript{}, exited: make(chan error, 1)}
}

var shopLine = regexp.MustCompile(`Shop +(http://\S+)`)

// dataDir is reachable for the unprivileged user that Postgres runs as under root, which t.TempDir
// is not.
func dataDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "onceshop-demo-test-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func startDemo(t *testing.T, dir string, args ...string) *demoProcess {
	t.Helper()
	return startDemoWith(t, []string{"SHOP_DATA_DIR=" + dir}, args...)
}

func startDemoWith(t *testing.T, settings []string, args ...string) *demoProcess {
	t.Helper()
	needs(t, "demo")
	d := newProcess("")
	d.cmd = exec.CommandContext(t.Context(), os.Args[0], append([]string{"demo"}, args...)...)
	d.cmd.Env = slices.Concat(os.Environ(), []string{asShop + "=1"}, settings)
	d.cmd.Stderr = d.output
	stdout, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	address := make(chan string, 1)
	go func() {
		scanner := bufio.NewScanner(io.TeeReader(stdout, d.output))
		for scanner.Scan() {
			if found := shopLine.FindStringSubmatch(scanner.Text()); found != nil {
				address <- found[1]
			}
		}
		d.exited <- d.cmd.Wait()
	}()
	t.Cleanup(func() { _ = d.cmd.Process.Kill() })
	select {
	case d.shop = <-address:
	case err := <-d.exited:
		if strings.Contains(d.output.String(), "apt-get install postgresql") {
			shoptest.Missing(t, d.output.String())
		}
		t.Fatalf("the demo ended: %v\n%s", err, d.output)
	case <-time.After(time.Minute):
		t.Fatalf("the demo is not ready:\n%s", d.output)
	}
	return d
}

// stop sends the signal and returns how the demo ended.
func (d *demoProcess) stop(t *testing.T, signal syscall.Signal) error {
	t.Helper()
	if err := d.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-d.exited:
		return err
	case <-time.After(20 * time.Second):
		t.Fatalf("the demo does not stop:\n%s", d.output)
		return nil
	}
}

func (d *demoProcess) order(t *testing.T, key string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.shop+"/v1/orders",
		strings.NewReader(apptest.OrderBody("alice@example.com", "MUG-ONCE", 1)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer demo-alice")
	request.Header.Set("Idempotency-Key", key)
	request.Close = true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatalf("order: %v\n%s", err, d.output)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// postmasters are the ids of servers that run on the folder.
func postmasters(t *testing.T, dir string) (pids []string) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range lines {
		if line, err := os.ReadFile(file); err == nil &&
			bytes.Contains(line, []byte(filepath.Join(dir, "postgres", "data"))) {
			pids = append(pids, file)
		}
	}
	return pids
}

// Restarting keeps the data, however the last run ended; --fresh starts over; nothing is left
// behind.
func TestDemoLifeCycle(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	d := startDemo(t, dir)
	status, first := d.order(t, "k1")
	if status != http.StatusCreated {
		t.Fatalf("got %d %s", status, first)
	}
	if err := d.stop(t, syscall.SIGINT); err != nil {
		t.Errorf("after Ctrl-C: %v\n%s", err, d.output)
	}
	if left := postmasters(t, dir); len(left) > 0 {
		t.Errorf("Ctrl-C left %v", left)
	}

	d = startDemo(t, dir)
	if status, again := d.order(t, "k1"); status != http.StatusCreated || again != first {
		t.Errorf("after a restart: %d %s, want %s", status, again, first)
	}
	if len(postmasters(t, dir)) == 0 {
		t.Error("no server is seen while the demo runs: this check cannot fail")
	}
	_ = d.stop(t, syscall.SIGKILL)
	shoptest.Eventually(t, 20*time.Second, "no server outlives kill -9", func() bool {
		return len(postmasters(t, dir)) == 0
	})

	d = startDemo(t, dir)
	if status, again := d.order(t, "k1"); status != http.StatusCreated || again != first {
		t.Errorf("after kill -9: %d %s, want %s", status, again, first)
	}
	if err := d.stop(t, syscall.SIGTERM); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, d.output)
	}

	d = startDemo(t, dir, "--fresh")
	if status, again := d.order(t, "k1"); status != http.StatusCreated || again == first {
		t.Errorf("after --fresh: %d %s", status, again)
	}
	if err := d.stop(t, syscall.SIGINT); err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
}

// A second demo takes other ports, and not the first one's data.
func TestTwoDemos(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	dir := dataDir(t)
	first, second := startDemo(t, dir), startDemo(t, dataDir(t))
	if first.shop == second.shop {
		t.Errorf("both on %s", first.shop)
	}
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"demo", "--fresh"}, append(os.Environ(), "SHOP_DATA_DIR="+dir), &stdout, &stderr)
	if code != exitFailed || !strings.Contains(stderr.String(), "SHOP_DATA_DIR") {
		t.Errorf("on the same data: exit code %d, %s", code, stderr.String())
	}
	if status, body := first.order(t, "k"); status != http.StatusCreated {
		t.Errorf("the first one after that: %d %s", status, body)
	}
	for _, d := range []*demoProcess{first, second} {
		if err := d.stop(t, syscall.SIGINT); err != nil {
			t.Error(err)
		}
	}
}

func TestNamedPortIsTaken(t *testing.T) {
	t.Parallel()
	needs(t, "demo")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"demo"},
		append(os.Environ(), "SHOP_DATA_DIR="+dataDir(t), "SHOP_ADDR="+taken.Addr().String()), &stdout, &stderr)
	if code != exitFailed || !strings.Contains(stderr.String(), "SHOP_ADDR") ||
		!strings.Contains(stderr.String(), taken.Addr().String()) {
		t.Errorf("exit code %d, %s", code, stderr.String())
	}
}

// Tools find the running demo by its data folder.
func TestToolsOnTheDemo(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	dir := dataDir(t)
	d := startDemo(t, dir)
	tool := func(want int, args ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), args, []string{"SHOP_DATA_DIR=" + dir}, &stdout, &stderr); code != want {
			t.Errorf("%v: exit code %d\n%s%s", args, code, stdout.String(), stderr.String())
		}
		return stdout.String()
	}
	file := writeFile(t, "delivery.csv",
		"delivery_id,line,sku,quantity\nD1,1,MUG-ONCE,5\nD1,2,PIN-KEY,7\nD1,1,MUG-ONCE,5\n")
	if said := tool(exitFine, "import", file); !strings.Contains(said,
		"2 lines booked (12 units), 1 repeated lines stopped (1 of them in memory)") {
		t.Error(said)
	}
	if said := tool(exitFine, "import", file); !strings.Contains(said, "0 lines booked (0 units), 3 repeated") {
		t.Error(said)
	}
	bad := writeFile(t, "bad.csv", "delivery_id,line,sku,quantity\nD2,1,MUG-ONCE,5\nD2,2,NO-SUCH,7\n")
	if said := tool(exitFailed, "import", bad); !strings.Contains(said, bad+":3: unknown sku") {
		t.Error(said)
	}
	if said := tool(exitFailed, "import", "--keep-good", bad); !strings.Contains(said, "1 lines booked (5 units)") {
		t.Error(said)
	}
	if said := tool(exitFine, "migrate", "status"); !strings.Contains(said, "applied") ||
		strings.Contains(said, "pending") {
		t.Error(said)
	}
	if said := tool(exitFine, "migrate", "up"); said != "up to date\n" {
		t.Error(said)
	}
	token := strings.TrimSpace(tool(exitFine, "token", "--customer", "carol@example.com"))
	if available := d.available(t, "MUG-ONCE"); available != 1010 {
		t.Errorf("%d mugs", available)
	}
	if status := d.get(t, "/v1/orders", token); status != http.StatusOK {
		t.Errorf("the new token: %d", status)
	}
	if said := tool(exitFine, "token", "--list"); !strings.Contains(said, token[:13]+"  carol@example.com") ||
		strings.Contains(said, token) {
		t.Error(said)
	}
	tool(exitFine, "token", "--revoke", token[:13])
	shoptest.Eventually(t, 5*time.Second, "the token is refused", func() bool {
		return d.get(t, "/v1/orders", token) == http.StatusUnauthorized
	})
	tool(exitFailed, "token", "--revoke", token[:13])
	if err := d.stop(t, syscall.SIGINT); err != nil {
		t.Error(err)
	}
}

// A site that points its own name at this machine gets nothing from any of the demo's ports.
func TestDemoRefusesForeignHosts(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	dir := dataDir(t)
	d := startDemo(t, dir)
	data, err := os.ReadFile(filepath.Join(dir, "running.json"))
	if err != nil {
		t.Fatal(err)
	}
	var running app.Running
	if err := json.Unmarshal(data, &running); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{running.Shop + "/v1/products", running.Shop + "/",
		running.Shop + "/static/shop.css", running.Shop + "/readyz", running.Ops + "/metrics", running.Ops + "/healthz",
		running.Provider + "/v1/captures", running.Provider + "/", running.Mailbox + "/",
		running.Mailbox + "/api/v1/messages"} {
		for host, want := range map[string]bool{"": true, "localhost": true, "LOCALHOST:1": true, "[::1]:8080": true,
			"shop.localhost": true, "evil.example": false, "evil.example:8080": false, "127.0.0.1.evil.example": false,
			"localhost.evil.example": false, "10.0.0.7": false, "0.0.0.0:8080": false} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Host, request.Close = host, true
			answer, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			if refused := answer.StatusCode == http.StatusMisdirectedRequest; refused == want {
				t.Errorf("%s for %q: %d", address, host, answer.StatusCode)
			}
		}
	}
	if err := d.stop(t, syscall.SIGINT); err != nil {
		t.Error(err)
	}
}

func (d *demoProcess) get(t *testing.T, path, token string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.shop+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Close = true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	return answer.StatusCode
}

func (d *demoProcess) available(t *testing.T, sku string) int64 {
	t.Helper()
	answer, err := http.Get(d.shop + "/v1/products")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var list struct {
		Products []struct {
			SKU       string
			Available int64
		}
	}
	if err := json.NewDecoder(answer.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Products {
		if p.SKU == sku {
			return p.Available
		}
	}
	t.Fatalf("no %s", sku)
	return 0
}
