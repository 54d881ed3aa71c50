package main

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/shoptest"
)

// The flash sale: callers at two nodes want one product, of which there are 5,000, and three in ten
// attempts repeat another one.
const (
	flashCallers  = 64
	flashStock    = 5000
	flashAttempts = 25_000
	flashSKU      = "PIN-KEY"
)

// Each of two nodes is killed in the midst of a flash sale and starts again, while callers send
// again what was not answered for good, to whichever node: exactly the stock is sold, and every
// answer stays true.
func TestFlashSaleWithKilledNodes(t *testing.T) {
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
	environ := []string{"DATABASE_URL=" + servers.DatabaseURL, "PSP_URL=" + servers.Provider,
		"PSP_WEBHOOK_SECRET=whsec_c2VjcmV0",
		"SHOP_SECRET=a-secret-for-tests-32-bytes-long!", "SHOP_URL=http://localhost:8080", "HOME=" + t.TempDir()}
	s := &flashSale{t: t, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: flashCallers}},
		answers: make([]flashAnswer, flashAttempts)}
	defer s.client.CloseIdleConnections()
	s.issueTokens(servers.DatabaseURL)
	s.makePlan()
	nodes := make([]*demoProcess, 2)
	for i := range nodes {
		s.nodes = append(s.nodes, "http://"+shoptest.FreeAddr(t))
		nodes[i] = s.startNode(environ, i)
	}

	var callers sync.WaitGroup
	for n := range flashCallers {
		callers.Go(func() { s.call(n) })
	}
	for i, node := range nodes {
		// With a quarter, and then half of the stock sold, a few hundred requests are under way at
		// the node.
		shoptest.Eventually(t, time.Minute, "the sale goes on", func() bool {
			return s.sold.Load() > int64((i+1)*flashStock/4)
		})
		if err := node.cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		<-node.exited //nolint:errcheck // it was killed
		nodes[i] = s.startNode(environ, i)
	}
	callers.Wait()
	if t.Failed() {
		return
	}
	s.judge(servers.DatabaseURL)

	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"check"}, []string{"SHOP_DATA_DIR=" + dir}, &stdout,
		&stderr); code != exitFine {
		t.Errorf("shop check: exit code %d\n%s%s\n%s", code, stdout.String(), stderr.String(), demo.output)
	}
	t.Logf("%d sent again because nothing came, %d because of what came", s.broken.Load(), s.ambiguous.Load())
	if s.broken.Load() == 0 {
		t.Error("no request was cut: the nodes were not killed in the midst of the sale")
	}
}

type flashSale struct {
	t       *testing.T
	nodes   []string
	tokens  []string
	client  *http.Client
	plan    []int // of each attempt, the number of its key
	next    atomic.Int64
	answers []flashAnswer
	// sold counts answers that were no replay.
	sold, broken, ambiguous atomic.Int64
}

type flashAnswer struct {
	status int
	body   []byte
}

func (s *flashSale) issueTokens(databaseURL string) {
	s.t.Helper()
	pool, err := pg.Open(s.t.Context(), databaseURL, 2)
	if err != nil {
		s.t.Fatal(err)
	}
	defer pool.Close()
	known := accounts.New(pool, false)
	for n := range flashCallers {
		token, err := known.IssueToken(s.t.Context(), "flash-"+strconv.Itoa(n)+"@example.com", false)
		if err != nil {
			s.t.Fatal(err)
		}
		s.tokens = append(s.tokens, token)
	}
}

func (s *flashSale) makePlan() {
	random, fresh := rand.New(rand.NewPCG(1, 2)), 0
	for i := range flashAttempts {
		if i > 0 && random.IntN(100) < 30 {
			s.plan = append(s.plan, s.plan[i-1-random.IntN(min(i, 2*flashCallers))])
			continue
		}
		s.plan = append(s.plan, fresh)
		fresh++
	}
}

func (s *flashSale) startNode(environ []string, i int) *demoProcess {
	s.t.Helper()
	p := newProcess(s.nodes[i])
	p.serve(s.t, environ, "--only=web", "SHOP_ADDR="+strings.TrimPrefix(p.shop, "http://"),
		"SHOP_OPS_ADDR="+shoptest.FreeAddr(s.t))
	shoptest.Eventually(s.t, 30*time.Second, "the node is ready", func() bool { return p.ready(s.t) })
	return p
}

// call works through the plan. It asks one node, and the other whenever an answer is none.
func (s *flashSale) call(n int) {
	for i := s.next.Add(1) - 1; i < flashAttempts && !s.t.Failed(); i = s.next.Add(1) - 1 {
		for try := 0; !s.t.Failed(); try++ {
			answer, err := s.order(s.nodes[(n+try)%len(s.nodes)], s.plan[i])
			if err == nil && answer.status < http.StatusInternalServerError {
				s.answers[i] = answer
				break
			}
			switch {
			case try > 1000:
				s.t.Errorf("attempt %d has no answer: %v, %d %s", i, err, answer.status, answer.body)
			case err != nil:
				s.broken.Add(1)
			default:
				s.ambiguous.Add(1)
			}
			select {
			case <-s.t.Context().Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

func (s *flashSale) order(node string, key int) (answer flashAnswer, err error) {
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, node+"/v1/orders",
		strings.NewReader(apptest.OrderBody("buyer@example.com", flashSKU, 1)))
	if err != nil {
		return answer, err
	}
	request.GetBody = nil // the transport may not send it again by itself
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+s.tokens[key%flashCallers])
	request.Header.Set("Idempotency-Key", "flash-"+strconv.Itoa(key))
	response, err := s.client.Do(request)
	if err != nil {
		return answer, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode == http.StatusCreated && response.Header.Get("Idempotent-Replayed") == "" {
		s.sold.Add(1)
	}
	return flashAnswer{response.StatusCode, body}, err
}

// judge holds every answer against what its key is answered now, and against the orders that stand.
func (s *flashSale) judge(databaseURL string) {
	t := s.t
	t.Helper()
	pool := shoptest.Pool(t, databaseURL)
	standing := map[string][]byte{}
	rows, err := pool.Query(t.Context(),
		"SELECT idempotency_key, answer FROM orders WHERE idempotency_key LIKE 'flash-%'")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var key string
		var answer []byte
		if err := rows.Scan(&key, &answer); err != nil {
			t.Fatal(err)
		}
		standing[key] = answer
	}
	if len(standing) != flashStock || rows.Err() != nil {
		t.Errorf("%d orders stand, %d units were there, %v", len(standing), flashStock, rows.Err())
	}
	var left int64
	if err := pool.QueryRow(t.Context(), "SELECT available FROM stock WHERE sku = $1",
		flashSKU).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d units are left, %v", left, err)
	}
	told := map[string]bool{}
	for i, answer := range s.answers {
		key := "flash-" + strconv.Itoa(s.plan[i])
		order, sold := standing[key]
		switch answer.status {
		case http.StatusCreated:
			if told[key] = true; !bytes.Equal(answer.body, order) {
				t.Errorf("%s was answered %s; what stands is %q", key, answer.body, order)
			}
		case http.StatusConflict:
			if sold || !bytes.Contains(answer.body, []byte("out_of_stock")) {
				t.Errorf("%s was answered %s; what stands is %q", key, answer.body, order)
			}
		default:
			t.Errorf("%s was answered %d %s", key, answer.status, answer.body)
		}
	}
	if len(told) != len(standing) {
		t.Errorf("%d orders stand, %d were acknowledged", len(standing), len(told))
	}
	for i := range s.answers[:flashAttempts/10] {
		if again, err := s.order(s.nodes[i%2], s.plan[i]); err != nil || again.status != s.answers[i].status ||
			again.status == http.StatusCreated && !bytes.Equal(again.body, s.answers[i].body) {
			t.Errorf("flash-%d was answered %d %s, and now %d %s, %v", s.plan[i], s.answers[i].status,
				s.answers[i].body, again.status, again.body, err)
		}
	}
}
