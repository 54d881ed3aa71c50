package app_test

import (
	"bufio"
	"bytes"
	"cmp"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/onceshop/onceshop/"

// layers are the packages of the shop from the bottom up: each may import only those named before
// it, and its own subfolders. The outer wings build on all of them.
var layers = []string{
	"db/migrations", "internal/problem", "internal/money", "internal/crash", "internal/cards", "internal/bounded",
	"internal/gauge", "internal/ratelimit", "internal/tracing",
	"internal/pg", "internal/dedup", "internal/redisclient", "internal/coalesce",
	"internal/timeline",
	"internal/accounts", "internal/outbox/broker", "internal/outbox",
	"internal/orders",
	"internal/payments", "internal/notify",
	"internal/check", "internal/forget", "internal/recovery", "internal/retain",
	"internal/api", "web",
	"internal/app",
	"internal/demo",
	"internal/proof",
	"cmd/shop",
	"scripts/fork",
}

// only lists the packages that alone may import a package.
var only = map[string][]string{
	"internal/demo":  {"cmd/shop"},
	"internal/proof": {"cmd/shop"},
}

// brokers lists the packages that alone may import a broker's client or its adapter, by how the
// import begins. The others know broker.Broker.
var brokers = map[string][]string{
	"github.com/Azure/": {"internal/outbox/broker/servicebus"},
	"github.com/nats-io/": {"internal/dedup", "internal/outbox/broker/nats", "internal/demo",
		"internal/proof"},
	module + "internal/outbox/broker/nats":       {"internal/app", "internal/proof"},
	module + "internal/outbox/broker/servicebus": {"internal/app", "internal/proof"},
}

// testing packages serve tests; production code never imports them.
var testingPackages = []string{"internal/shoptest", "internal/app/apptest", "internal/api/apitest",
	"internal/outbox/broker/brokertest", "internal/proof/fleet"}

// unrelated pairs must not know each other although their layers would allow it.
var unrelated = [][2]string{{"internal/notify", "internal/payments"}, {"internal/api", "web"}}

func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	output, err := exec.Command("go", "list", "-f",
		`{{$p := .ImportPath}}{{range .Imports}}{{$p}} {{.}}{{"\n"}}{{end}}`, module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	lines := 0
	for scanner := bufio.NewScanner(bytes.NewReader(output)); scanner.Scan(); {
		from, to, _ := strings.Cut(scanner.Text(), " ")
		from, ours := inModule(from)
		to, oursToo := inModule(to)
		if !ours || !oursToo || isTesting(from) || to == "." {
			continue
		}
		lines++
		if isTesting(to) {
			t.Errorf("%s imports %s, which is for tests", from, to)
			continue
		}
		if why := forbidden(from, to); why != "" {
			t.Errorf("%s imports %s: %s", from, to, why)
		}
	}
	if lines < 20 {
		t.Errorf("only %d imports seen: is the list complete?", lines)
	}
}

// inModule returns the folder of one of our packages; "." is the repository's root.
func inModule(path string) (folder string, ours bool) {
	folder, ours = strings.CutPrefix(path+"/", module)
	return cmp.Or(strings.TrimSuffix(folder, "/"), "."), ours
}

func forbidden(from, to string) string {
	a, b := layerOf(from), layerOf(to)
	switch {
	case a < 0 || b < 0:
		return "name the package in layers"
	case a < b:
		return "imports point down"
	}
	if allowed := only[layers[b]]; allowed != nil && a != b && !slices.Contains(allowed, layers[a]) {
		return "only " + strings.Join(allowed, " and ") + " may"
	}
	for _, pair := range unrelated {
		if slices.Contains(pair[:], layers[a]) && slices.Contains(pair[:], layers[b]) && a != b {
			return "they do not know each other"
		}
	}
	return ""
}

func layerOf(path string) int {
	return slices.IndexFunc(layers, func(layer string) bool {
		return path == layer || strings.HasPrefix(path, layer+"/")
	})
}

func isTesting(path string) bool { return slices.Contains(testingPackages, path) }

func TestBrokersStayInTheirAdapters(t *testing.T) {
	t.Parallel()
	output, err := exec.Command("go", "list", "-f",
		`{{$p := .ImportPath}}{{range .Imports}}{{$p}} {{.}}{{"\n"}}{{end}}`, module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := map[string]bool{}
	for scanner := bufio.NewScanner(bytes.NewReader(output)); scanner.Scan(); {
		from, to, _ := strings.Cut(scanner.Text(), " ")
		from, _ = inModule(from)
		for begin, allowed := range brokers {
			if !strings.HasPrefix(to, begin) || isTesting(from) {
				continue
			}
			seen[begin] = true
			if !slices.ContainsFunc(allowed, func(folder string) bool {
				return from == folder || strings.HasPrefix(from, folder+"/")
			}) {
				t.Errorf("%s imports %s: only %s may", from, to, strings.Join(allowed, ", "))
			}
		}
	}
	if len(seen) != len(brokers) {
		t.Errorf("only %v seen: is the list complete?", seen)
	}
}

// TestShopStandsAlone keeps the tests of all packages from importing an outer wing that is not
// their own, so that either wing can be removed alone.
func TestShopStandsAlone(t *testing.T) {
	t.Parallel()
	const format = `{{$p := .ImportPath}}{{range .TestImports}}{{$p}} {{.}}{{"\n"}}{{end}}` +
		`{{range .XTestImports}}{{$p}} {{.}}{{"\n"}}{{end}}`
	output, err := exec.Command("go", "list", "-f", format, module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for scanner := bufio.NewScanner(bytes.NewReader(output)); scanner.Scan(); {
		from, to, _ := strings.Cut(scanner.Text(), " ")
		from, _ = inModule(from)
		to, ours := inModule(to)
		if !ours || layerOf(to) < 0 {
			continue
		}
		wing := layers[layerOf(to)]
		if only[wing] != nil && from != wing && !strings.HasPrefix(from, wing+"/") {
			t.Errorf("the tests of %s import %s", from, to)
		}
	}
}

// TestServeIsLean keeps the tools of the outer wings and of the tests out of `shop serve`.
func TestServeIsLean(t *testing.T) {
	t.Parallel()
	output, err := exec.Command("go", "list", "-deps", module+"internal/app").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	imported := strings.Fields(string(output))
	if !slices.Contains(imported, module+"internal/orders") {
		t.Errorf("only %d packages seen: is the list complete?", len(imported))
	}
	for _, path := range imported {
		for _, tool := range []string{
			"toxiproxy", "porcupine", "miniredis", "nats-server", "chromedp", "embedded-postgres",
		} {
			if strings.Contains(path, tool) {
				t.Errorf("shop serve contains %s", path)
			}
		}
	}
}
