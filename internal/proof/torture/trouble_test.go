package torture

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A port that another program took is trouble of the harness: no promise of the shop was broken.
func TestTakenPortIsNoViolation(t *testing.T) {
	t.Parallel()
	r := &run{Options: Options{Progress: io.Discard}, dir: t.TempDir(), begin: time.Now(), count: newCounters()}
	edge, err := newEdges(newAddresses()).open("webhooks", "127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	edge.shut()
	other, err := net.Listen("tcp", edge.address())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	r.servers.webhooks = edge
	r.listening(&node{run: r, address: "127.0.0.1:2"})

	log := filepath.Join(r.dir, "node-1.log")
	text := "{\"msg\":\"serving\"}\nshop: SHOP_ADDR: 127.0.0.1:17001 is in use by another program: stop it\n"
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if !(&node{run: r, name: "node-1"}).portTaken() {
		t.Error("a node that found its port taken is blamed")
	}
	if len(r.violations) != 0 || len(r.troubles) != 1 || !strings.Contains(r.troubles[0], "webhooks") {
		t.Errorf("violations %v, troubles %v; want one trouble with the proxy's name", r.violations, r.troubles)
	}
	var out bytes.Buffer
	Report{Troubles: r.troubles}.Write(&out)
	if text := out.String(); !strings.Contains(text, "TROUBLE of the harness") || strings.Contains(text, "VIOLATED") {
		t.Errorf("the report is\n%s", text)
	}
}
