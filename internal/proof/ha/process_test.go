package ha

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"github.com/onceshop/onceshop/internal/shoptest"
)

// asBroker makes the test binary a NATS server, so that a test can kill it.
const asBroker = "SHOP_TEST_AS_BROKER"

func TestMain(m *testing.M) {
	if os.Getenv(asBroker) == "" {
		shoptest.Main(m)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := serveBroker(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// program returns the path of an installed program. Without it the test is skipped, and fails in
// CI.
func program(t *testing.T, name, debian string) string {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	shoptest.Missing(t, name+" is not on the PATH: apt-get install "+debian)
	return ""
}

func port(t *testing.T, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return port
}
