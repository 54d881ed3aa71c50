// The program runs shop twin against guards that others have written, each in a small service of
// this folder, and writes docs/twin-others.md with the reports. It needs Go, Node.js, Python and
// redis-server:
//
//	cd internal/proof/twin/peers && go run . [NAME …]
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	runDir  = ".run"
	root    = "../../../.."
	reports = root + "/docs/twin-others"
	page    = root + "/docs/twin-others.md"
)

// peer is a guard and the service behind it.
type peer struct {
	Name, Title, Version, Setup, Start, Promise, Source string
}

func main() {
	log.SetFlags(0)
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(names []string) error {
	text, err := os.ReadFile("peers.json")
	if err != nil {
		return err
	}
	var peers []peer
	if err := json.Unmarshal(text, &peers); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(runDir, 0o755), os.MkdirAll(reports, 0o755)); err != nil {
		return err
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := shell(root, "go build -o "+filepath.Join(here, runDir, "shop")+" ./cmd/shop"); err != nil {
		return err
	}
	for _, p := range peers {
		if len(names) > 0 && !slices.Contains(names, p.Name) {
			continue
		}
		log.Print(p.Name)
		if err := p.test(); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	return writePage(peers)
}

// test runs two nodes of the service on one Redis and writes the report.
func (p peer) test() error {
	if err := shell(".", p.Setup); err != nil {
		return err
	}
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(filepath.Join(runDir, p.Name))
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	redis := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", ports[0], "--save", "", "--dir", dir)
	if err := redis.Start(); err != nil {
		return err
	}
	defer func() {
		_ = redis.Process.Kill()
		_ = redis.Wait()
	}()
	restart := filepath.Join(dir, "restart.sh")
	effects := filepath.Join(dir, "effects")
	script := fmt.Sprintf(restartScript, dir, effects, ports[0], ports[1], ports[2], p.Start)
	if err := errors.Join(os.WriteFile(restart, []byte(script), 0o755), os.WriteFile(effects, nil, 0o644)); err != nil {
		return err
	}
	defer killNodes(dir)
	if err := shell(".", "bash "+restart); err != nil {
		return err
	}
	return p.ask(dir, ports, restart, effects)
}

func (p peer) ask(dir string, ports []string, restart, effects string) error {
	body := filepath.Join(dir, "body.json")
	const payment = `{"amount":1200,"items":["a","b"],"reference":"order-{{unique}}"}`
	if err := os.WriteFile(body, []byte(payment), 0o644); err != nil {
		return err
	}
	twin := exec.Command(runDir+"/shop", "twin", "http://127.0.0.1:"+ports[1], "--also", "http://127.0.0.1:"+ports[2],
		"--path", "/payments", "--header", "Authorization: Bearer a", "--other-header", "Authorization: Bearer b",
		"--fail-header", "X-Fail: 1", "--body", body, "--count", "wc -l <"+effects, "--restart", "bash "+restart,
		"--as", "ietf", "--json")
	twin.Stderr = os.Stderr
	report, err := twin.Output()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1 || len(report) == 0) {
		return err
	}
	return os.WriteFile(filepath.Join(reports, p.Name+".json"), report, 0o644)
}

// restartScript kills both nodes and starts them, and returns when they listen.
const restartScript = `set -eu
cd "$(dirname "$0")/../.."
dir=%[1]s
for port in %[4]s %[5]s; do
  if [ -f "$dir/pid-$port" ]; then kill -9 "$(cat "$dir/pid-$port")" 2>/dev/null || true; fi
done
for port in %[4]s %[5]s; do
  EFFECTS=%[2]s REDIS_URL=redis://127.0.0.1:%[3]s PORT=$port %[6]s >>"$dir/log" 2>&1 &
  echo $! >"$dir/pid-$port"
done
for port in %[4]s %[5]s; do
  for try in $(seq 300); do
    if (exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null; then continue 2; fi
    sleep 0.1
  done
  exit 1
done
`

func killNodes(dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "pid-*"))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			if process, err := os.FindProcess(pid); err == nil {
				_ = process.Kill()
			}
		}
	}
}

func freePorts(n int) ([]string, error) {
	ports := make([]string, n)
	for i := range ports {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close()
		ports[i] = strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func shell(dir, command string) error {
	cmd := exec.Command("bash", "-c", command)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stderr, os.Stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}
