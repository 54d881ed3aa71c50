package shoptest

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/pg/pglocal"
)

// program is the result of the build, one for each test binary.
var program struct {
	once sync.Once
	path string
	err  error
}

// Program builds the program and returns its path. All test binaries of a checkout share one file,
// and go build reuses it unless the sources have changed.
func Program(t testing.TB) string {
	t.Helper()
	program.once.Do(func() { program.path, program.err = buildProgram() })
	if program.err != nil {
		t.Fatal(program.err)
	}
	return program.path
}

func buildProgram() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir, unlock, err := sharedFolder("program", root)
	if err != nil {
		return "", err
	}
	// If several test binaries start together, one builds and the others wait for it.
	defer unlock()
	path := filepath.Join(dir, "shop")
	build := exec.Command("go", "build", "-o", path, "./cmd/shop")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return path, nil
}

// sharedFolder returns a folder for this purpose that all test binaries of the checkout share. The
// caller has it alone until unlock.
func sharedFolder(purpose, root string) (dir string, unlock func(), err error) {
	hash := fnv.New64a()
	hash.Write([]byte(root))
	dir = filepath.Join(os.TempDir(), fmt.Sprintf("onceshop-%s-%d-%x", purpose, os.Getuid(), hash.Sum64()))
	if err := ownFolder(dir); err != nil {
		return "", nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		lock.Close()
		return "", nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return dir, func() { lock.Close() }, nil
}

// ownFolder makes the folder unless it exists. Its name is known to every user of the machine, so a
// folder that another user made or can write to is an error: the program in it may be theirs.
func ownFolder(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(owner.Uid) != os.Getuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s belongs to another user, or others can write to it: remove it", dir)
	}
	return nil
}

// moduleRoot returns the folder of the module with the program, at or above the test's package. It
// looks for a file: go test would not reuse a result after a change of the folder.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		_, noModule := os.Stat(filepath.Join(dir, "go.mod"))
		_, noProgram := os.Stat(filepath.Join(dir, "cmd", "shop", "main.go"))
		if noModule == nil && noProgram == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("no go.mod with cmd/shop above the test")
		}
		dir = parent
	}
}

// ProviderOptions are the settings of a Provider. The zero value keeps everything in memory and
// sends no webhooks.
type ProviderOptions struct {
	WebhookURL    string
	WebhookSecret string
	Log           string        // a file that keeps every capture and refund
	Slow          time.Duration // how long pm_slow takes; 0: the default
}

var providerLine = regexp.MustCompile(`Payment provider on (http://\S+)\n`)

// Provider runs the simulated payment provider until the test ends and returns its address.
func Provider(t testing.TB, o ProviderOptions) string {
	t.Helper()
	args := []string{"psp"}
	if o.WebhookURL != "" {
		args = append(args, "--webhook-url", o.WebhookURL)
	}
	if o.Log != "" {
		args = append(args, "--log", o.Log)
	}
	if o.Slow != 0 {
		args = append(args, "--slow", o.Slow.String())
	}
	environ := []string{"SHOP_PSP_ADDR=127.0.0.1:0", "PSP_WEBHOOK_SECRET=" + o.WebhookSecret}
	return runProgram(t, providerLine, environ, args...)[0]
}

var mailboxLine = regexp.MustCompile(`SMTP on (\S+), page on (http://\S+)\n`)

// Mailbox runs the mail sink until the test ends. It returns the URL to send mail to and the
// address of its pages and API.
func Mailbox(t testing.TB) (smtpURL, pageURL string) {
	t.Helper()
	environ := []string{"SHOP_MAILBOX_ADDR=127.0.0.1:0", "SHOP_MAILBOX_SMTP_ADDR=127.0.0.1:0"}
	found := runProgram(t, mailboxLine, environ, "mailbox")
	return "smtp://" + found[0] + "?tls=none", found[1]
}

var demoLines = regexp.MustCompile(`(?s)(?:node 2 +(http://\S+)\n.*)?\n  Shop +(http://\S+)\n`)

// Demo runs the demo with one or two nodes on the database until the test ends, and returns their
// base URLs.
func Demo(t testing.TB, databaseURL string, nodes int) []string {
	t.Helper()
	environ := []string{"DATABASE_URL=" + databaseURL, "SHOP_DATA_DIR=" + filepath.Join(t.TempDir(), "demo")}
	for _, name := range []string{"", "OPS_", "PSP_", "MAILBOX_", "MAILBOX_SMTP_"} {
		environ = append(environ, "SHOP_"+name+"ADDR=127.0.0.1:0")
	}
	found := runProgram(t, demoLines, environ, "demo", "--nodes", strconv.Itoa(nodes))
	return []string{found[1], found[0]}[:nodes]
}

const (
	readyWithin = 30 * time.Second
	stopWithin  = 10 * time.Second
)

// runProgram runs a command of the demo until the test ends. It waits until the output matches the
// pattern and returns the groups of the match. If the program does not have the command, it skips
// the test.
func runProgram(t testing.TB, ready *regexp.Regexp, environ []string, args ...string) []string {
	t.Helper()
	needsDemo(t)
	cmd := exec.Command(Program(t), args...)
	ours := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir()}
	cmd.Env = append(ours, environ...)
	out := &output{pattern: ready, found: make(chan []string, 1)}
	cmd.Stdout, cmd.Stderr = out, out
	exited, err := pglocal.StartProcess(cmd)
	if err != nil {
		t.Fatalf("start shop %s: %v", args[0], err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // fails only if the process has exited
		select {
		case <-exited:
		case <-time.After(stopWithin):
			_ = cmd.Process.Kill()
			<-exited
			t.Errorf("shop %s did not stop", args[0])
		}
		if t.Failed() {
			t.Logf("output of shop %s:\n%s", args[0], out)
		}
	})
	select {
	case found := <-out.found:
		return found
	case <-exited:
		t.Fatalf("shop %s ended: %s", args[0], cmd.ProcessState)
	case <-time.After(readyWithin):
		t.Fatalf("shop %s is not ready within %s", args[0], readyWithin)
	}
	return nil
}

// needsDemo skips the test if the wing with the demo was removed. The look at its file also keeps
// go test from reusing the test's result then.
func needsDemo(t testing.TB) {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "cmd", "shop", "demo.go")); errors.Is(err, fs.ErrNotExist) {
		t.Skip("this program has no demo")
	}
}

// output keeps what a process writes and sends the groups of the pattern's first match. A command
// whose two channels are the same writer calls Write from one goroutine at a time.
type output struct {
	Transcript
	pattern *regexp.Regexp
	found   chan []string
	sent    bool
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.Transcript.Write(p)
	if o.sent {
		return n, err
	}
	if match := o.pattern.FindStringSubmatch(o.String()); match != nil {
		o.sent = true
		o.found <- match[1:]
	}
	return n, err
}
