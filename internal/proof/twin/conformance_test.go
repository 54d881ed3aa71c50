package twin_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/proof/twin"
	"github.com/onceshop/onceshop/internal/shoptest"
)

func TestMain(m *testing.M) { shoptest.Main(m) }

var update = flag.Bool("update", false, "write docs/conformance.md")

// onPurpose has the reason for each line in which the shop differs from a norm.
var onPurpose = map[string]map[string]string{
	"stripe": {
		"key-missing": "A client that forgets the key repeats its effects at the first lost answer. " +
			"The shop refuses it, as the draft and ACP do.",
		"other-meaning": "The draft's 422 tells this mistake from a malformed request, which is 400. " +
			"Stripe's 400 does not.",
		"after-5xx": "Stripe keeps a 500 because it cannot know what was done. The shop knows: the key is a column " +
			"of the row that the request writes, and a request that failed has written none.",
	},
	"acp": {
		"key-missing":   "The same status; the code is the shop's own, as in all its problems.",
		"other-meaning": "The same status; the code is the shop's own, as in all its problems.",
		"other-number": "Amounts and quantities are whole numbers. `1.0` is refused as a wrong type, at the first " +
			"request as at the retry, and the key stays as it was.",
		"other-order": "The same status; the code is the shop's own, as in all its problems.",
		"null-member": "`null` is the same as absent. Clients in many languages write optional fields as null in one " +
			"version and leave them out in the next, and mean the same. A field that cannot be absent cannot be null.",
	},
}

// docs/conformance.md is what the shop does.
func TestConformance(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	shop := apptest.Start(t, 3)
	var page bytes.Buffer
	head, err := os.ReadFile("testdata/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	page.Write(head)
	reports := map[string]twin.Report{}
	for n, rules := range twin.AllRules() {
		report := askShop(t, shop, rules, fmt.Sprint("c", n))
		for _, line := range report.Lines {
			reason, known := onPurpose[rules.Name][line.Question]
			differs := line.Verdict == twin.Differs
			if line.Verdict.Harm() || line.Verdict == twin.NotAsked || differs != known || differs && reason == "" {
				t.Errorf("%s: %+v", rules.Name, line)
			}
		}
		reports[rules.Name] = report
	}
	writeConformance(&page, reports)
	const path = "../../../docs/conformance.md"
	if *update {
		if err := os.WriteFile(path, page.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(text, page.Bytes()) {
		t.Errorf("docs/conformance.md is not what the shop does: run this test with -args -update (%v)", err)
	}
}

// askShop runs the questions against two of the three nodes. A proxy before the first one fails or
// restarts it.
func askShop(t *testing.T, shop *apptest.Shop, rules twin.Rules, name string) twin.Report {
	t.Helper()
	var node atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Fail") != "" {
			shop.Exec(t, "ALTER TABLE orders RENAME TO orders_away")       //nolint:contextcheck // the test's
			defer shop.Exec(t, "ALTER TABLE orders_away RENAME TO orders") //nolint:contextcheck // the test's
		}
		to, err := url.Parse(shop.Nodes[node.Load()])
		if err != nil {
			t.Error(err)
			return
		}
		through := &httputil.ReverseProxy{
			Rewrite:   func(p *httputil.ProxyRequest) { p.SetURL(to) },
			Transport: &http.Transport{DisableKeepAlives: true},
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
				w.WriteHeader(http.StatusBadGateway)
			},
		}
		through.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	id, err := twin.ParseJSONPath("$.id")
	if err != nil {
		t.Fatal(err)
	}
	config, done, ok := twin.ForDemo(t.Context(), twin.Config{URL: proxy.URL, Also: shop.Nodes[1], ID: id,
		KeyHeader: "Idempotency-Key", Concurrency: 20, Rules: rules}, name)
	if !ok {
		t.Fatal("the shop of the test is not taken for a demo")
	}
	config.FailHeader = http.Header{"X-Fail": {"1"}}
	config.Restart = func(context.Context) error {
		node.Store(2 - node.Load())
		proxy.CloseClientConnections()
		return nil
	}
	config.Age = func(ctx context.Context) error {
		const older = "UPDATE orders SET created_at = created_at - interval '23 hours'"
		shop.Exec(t, older) //nolint:contextcheck // the test's
		return config.Restart(ctx)
	}
	report, err := twin.Run(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if err := done(t.Context()); err != nil {
		t.Error(err)
	}
	if open := shop.Count(t, "SELECT count(*) FROM orders WHERE status = 'placed'"); open > 0 {
		t.Errorf("%d orders stay open", open)
	}
	return report
}

func writeConformance(page *bytes.Buffer, reports map[string]twin.Report) {
	page.WriteString("| question | sent | the shop |")
	for _, rules := range twin.AllRules() {
		fmt.Fprintf(page, " `%s` |", rules.Name)
	}
	page.WriteString("\n| --- | --- | --- |" + strings.Repeat(" --- |", len(reports)) + "\n")
	for n, line := range reports["shop"].Lines {
		fmt.Fprintf(page, "| %s | %s | %s |", line.Question, line.Sent, line.Outcome)
		for _, rules := range twin.AllRules() {
			fmt.Fprintf(page, " %s |", reports[rules.Name].Lines[n].Verdict)
		}
		page.WriteString("\n")
	}
	for _, rules := range twin.AllRules() {
		fmt.Fprintf(page, "\n## `%s`: %s\n\n", rules.Name, rules.Title)
		report := reports[rules.Name]
		fmt.Fprintf(page, "%d ok, %d without a rule, %d differ. Rules: %s.\n", report.Count(twin.Passed),
			report.Count(twin.NoRule), report.Count(twin.Differs), rules.Source)
		if report.Count(twin.Differs) == 0 {
			continue
		}
		page.WriteString("\n| question | the norm | the shop | why |\n| --- | --- | --- | --- |\n")
		for line := range slices.Values(report.Lines) {
			if line.Verdict == twin.Differs {
				fmt.Fprintf(page, "| %s | %s | %s | %s |\n", line.Question, line.Expected, line.Outcome,
					onPurpose[rules.Name][line.Question])
			}
		}
	}
}
