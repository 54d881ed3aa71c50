package shoptest

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/pg/pglocal"
)

// peerFolder has the peer's program, below the module's root.
const peerFolder = "internal/outbox/broker/servicebus/peer"

// npmTimeout bounds the installation of the peer's library.
const npmTimeout = 2 * time.Minute

// ServiceBusOptions describe a topic of Azure Service Bus.
type ServiceBusOptions struct {
	Topic string
	// Subscriptions have the subject of the messages that each receives, or an empty one for all.
	Subscriptions map[string]string
	// Window is for how long message ids are compared: with 0, they are not. Lock is how long a
	// lock lasts.
	Window, Lock time.Duration
	// MaxDeliveries is after how many failed deliveries the broker makes a dead letter.
	MaxDeliveries int
}

// ServiceBus is a process with one topic that speaks the protocol of Azure Service Bus: see peer.js
// for how far it goes.
type ServiceBus struct {
	t       testing.TB
	args    []string
	environ []string
	addr    string
	control string
	end     func()
}

// StartServiceBus starts a peer on a free port of 127.0.0.1. It is killed when the test ends.
func StartServiceBus(t testing.TB, o ServiceBusOptions) *ServiceBus {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		Missing(t, "node is not on the PATH: apt-get install nodejs npm, or brew install node")
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(root, peerFolder)
	b := &ServiceBus{t: t, addr: FreeAddr(t), end: func() {}}
	_, port, err := net.SplitHostPort(b.addr)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{"port": number, "journal": filepath.Join(t.TempDir(), "journal"),
		"topic": o.Topic, "subscriptions": o.Subscriptions, "window": o.Window.Milliseconds(),
		"lock": o.Lock.Milliseconds(), "maxDeliveries": o.MaxDeliveries})
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(folder, "peer.js")
	if _, err := os.ReadFile(program); err != nil { // so that go test knows that its result depends on it
		t.Fatal(err)
	}
	b.args = []string{node, program, string(config)}
	b.environ = []string{"NODE_PATH=" + filepath.Join(peerModules(t, folder), "node_modules")}
	t.Cleanup(b.Kill)
	b.Start()
	return b
}

// peerModules installs what the peer's package-lock.json names, once for each content of that file,
// and returns the folder.
func peerModules(t testing.TB, folder string) string {
	t.Helper()
	lock, err := os.ReadFile(filepath.Join(folder, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	hash := fnv.New64a()
	hash.Write(lock)
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("onceshop-peer-%d-%x", os.Getuid(), hash.Sum64()))
	if err := ownFolder(dir); err != nil {
		t.Fatal(err)
	}
	one, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	// If several test binaries start together, one installs and the others wait for it.
	if err := syscall.Flock(int(one.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatalf("lock %s: %v", dir, err)
	}
	installed := filepath.Join(dir, "installed")
	if _, err := os.Stat(installed); err == nil {
		return dir
	}
	for _, name := range []string{"package.json", "package-lock.json"} {
		content, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	install := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	install.Dir, install.WaitDelay = dir, time.Second
	timer := time.AfterFunc(npmTimeout, func() { _ = install.Process.Kill() })
	defer timer.Stop()
	if out, err := install.CombinedOutput(); err != nil {
		Missing(t, fmt.Sprintf("npm ci for the peer of Service Bus failed (apt-get install npm, and a network): %v\n%s",
			err, out))
	}
	if err := os.WriteFile(installed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

var peerLine = regexp.MustCompile(`control on (http://\S+)\n`)

// Kill ends the peer like a crash. It may be called twice.
func (b *ServiceBus) Kill() { b.end() }

// Start starts the peer again after Kill.
func (b *ServiceBus) Start() {
	b.t.Helper()
	cmd := exec.Command(b.args[0], b.args[1:]...)
	cmd.Env = b.environ
	out := &output{pattern: peerLine, found: make(chan []string, 1)}
	cmd.Stdout, cmd.Stderr = out, out
	exited, err := pglocal.StartProcess(cmd)
	if err != nil {
		b.t.Fatalf("start the peer of Service Bus: %v", err)
	}
	b.end = func() {
		_ = cmd.Process.Kill() // fails only if the process has exited
		<-exited
		if b.t.Failed() {
			b.t.Logf("output of the peer of Service Bus:\n%s", out)
		}
	}
	select {
	case found := <-out.found:
		b.control = found[0]
	case <-exited:
		b.t.Fatalf("the peer of Service Bus ended: %s\n%s", cmd.ProcessState, out)
	case <-time.After(readyWithin):
		b.t.Fatalf("the peer of Service Bus is not ready within %s", readyWithin)
	}
}

// URL returns the peer's address. Restart does not change it.
func (b *ServiceBus) URL() string { return "servicebus://test:test@" + b.addr + "?emulator=true" }

// Restart kills the peer, like a crash, and starts it again. Locks are lost.
func (b *ServiceBus) Restart() {
	b.t.Helper()
	b.Kill()
	b.Start()
}

// Forward sets the peer's clock forward.
func (b *ServiceBus) Forward(d time.Duration) {
	b.t.Helper()
	b.post(fmt.Sprintf("/clock/%d", d.Milliseconds()))
}

// Fault has a fault happen once. See peer.js for their names.
func (b *ServiceBus) Fault(name string) {
	b.t.Helper()
	b.post("/fault/" + name)
}

// ServiceBusCounts are what a peer has seen since its start. Pending and Probes are what it holds.
type ServiceBusCounts struct{ Published, Dropped, Renewed, Dead, Pending, Probes int }

// Counts returns how many messages were published to the peer, how many of them it dropped as
// duplicates, how many locks it has renewed, how many messages became dead letters, and how many
// the subscriptions hold, locked or not. Probes are only counted where they are held.
func (b *ServiceBus) Counts() (counts ServiceBusCounts) {
	b.t.Helper()
	if err := json.Unmarshal(b.post("/counts"), &counts); err != nil {
		b.t.Fatal(err)
	}
	return counts
}

func (b *ServiceBus) post(path string) []byte {
	b.t.Helper()
	response, err := http.Post(b.control+path, "", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		b.t.Fatalf("the peer of Service Bus answered %s to %s, %v", response.Status, path, err)
	}
	return body
}
