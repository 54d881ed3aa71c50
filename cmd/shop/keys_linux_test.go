package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onceshop/onceshop/internal/shoptest"
)

// On a terminal the demo takes keys: it checks itself, and kills a node between the charge and its
// record, after which the payment is final and everything happened once.
func TestKeysOfTheDemo(t *testing.T) {
	shoptest.Long(t)
	t.Parallel()
	needs(t, "demo")
	shoptest.DatabaseURL(t) // skips without Postgres
	person, terminal := openTerminal(t)
	command := exec.CommandContext(t.Context(), os.Args[0], "demo")
	command.Env = append(os.Environ(), asShop+"=1", "SHOP_DATA_DIR="+dataDir(t), "TERM=xterm", "NO_COLOR=1")
	command.Stdin, command.Stdout, command.Stderr = terminal, terminal, terminal
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	exited := make(chan error, 1)
	go func() { exited <- command.Wait() }()
	seen := &shoptest.Transcript{}
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := person.Read(buffer)
			if err != nil {
				return
			}
			_, _ = seen.Write(buffer[:n])
		}
	}()
	await := func(what string, times int) {
		t.Helper()
		shoptest.Eventually(t, 2*time.Minute, what, func() bool {
			select {
			case err := <-exited:
				t.Fatalf("the demo ended: %v\n%s", err, seen)
			default:
			}
			return strings.Count(seen.String(), what) >= times
		})
	}
	press := func(key string) {
		t.Helper()
		if _, err := fmt.Fprintln(person, key); err != nil {
			t.Fatal(err)
		}
	}
	await("Keys, each followed by Enter", 1)
	press("?")
	await("Keys, each followed by Enter", 2)
	press("c")
	await(" hold", 1)
	press("k")
	await("Paid after", 1)
	await(" hold", 2)
	if text := seen.String(); strings.Contains(text, "violated") ||
		strings.Contains(text, "no crash points") == (demoKills()) {
		t.Errorf("the demo wrote\n%s", text)
	}
	press("q")
	select {
	case err := <-exited:
		if err != nil {
			t.Errorf("the demo ended: %v\n%s", err, seen)
		}
	case <-time.After(time.Minute):
		t.Errorf("the demo does not quit:\n%s", seen)
	}
}

// demoKills reports whether the program has crash points: they belong to the proof.
func demoKills() bool {
	_, err := os.Stat("proof.go")
	return err == nil
}

// openTerminal returns both ends of a terminal.
func openTerminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminal: %v", err)
	}
	t.Cleanup(func() { person.Close() })
	fd := int(person.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return person, program
}
