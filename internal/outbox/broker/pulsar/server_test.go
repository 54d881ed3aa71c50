package pulsar

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onceshop/onceshop/internal/pg/pglocal"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const (
	// serverVersion has BookKeeper 4.17.3 or newer. After a crash, a server with an older one may
	// register its bookie again and again without end, and refuse producers in between.
	serverVersion = "4.2.4"
	// downloadTimeout bounds the download of the server, of about 245 MB.
	downloadTimeout = 8 * time.Minute
	// readyWithin bounds the start of a server, on a busy machine.
	readyWithin = 2 * time.Minute
)

// pom names the server. Its dependencies are the program, in the versions that the parent sets.
const pom = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <parent>
    <groupId>org.apache.pulsar</groupId><artifactId>pulsar</artifactId><version>` + serverVersion + `</version>
    <relativePath/>
  </parent>
  <artifactId>onceshop</artifactId>
  <dependencies><dependency>
    <groupId>org.apache.pulsar</groupId><artifactId>pulsar-broker</artifactId><version>` + serverVersion + `</version>
  </dependency></dependencies>
</project>
`

// serverJars returns the folder with the server, which it downloads from Maven Central once for
// each user. Without Java, Maven or the jars the test is skipped, also in CI.
func serverJars(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"java", "mvn"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not on the PATH: apt-get install openjdk-17-jre-headless maven", program)
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skipf("there is no folder for the server: %v", err)
	}
	dir := filepath.Join(cache, "onceshop-test", "pulsar-"+serverVersion)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Skipf("there is no folder for the server: %v", err)
	}
	one, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	// If several test binaries start together, one downloads and the others wait for it.
	if err := syscall.Flock(int(one.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	jars, complete := filepath.Join(dir, "lib"), filepath.Join(dir, "complete")
	if _, err := os.Stat(complete); err == nil {
		return jars
	}
	if err := os.WriteFile(filepath.Join(dir, "pom.xml"), []byte(pom), 0o600); err != nil {
		t.Fatal(err)
	}
	const plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
	download := exec.Command("mvn", "-q", "-B", plugin+":copy-dependencies", "-DoutputDirectory=lib",
		"-DincludeScope=runtime")
	download.Dir, download.WaitDelay = dir, time.Second
	timer := time.AfterFunc(downloadTimeout, func() { _ = download.Process.Kill() })
	defer timer.Stop()
	if out, err := download.CombinedOutput(); err != nil {
		t.Skipf("the server cannot be had from Maven Central: %v\n%s", err, out)
	}
	if err := os.WriteFile(complete, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return jars
}

// server is a real Pulsar, broker and bookie in one process, on ports of 127.0.0.1.
type server struct {
	t         *testing.T
	dir, jars string
	settings  string
	// listen and web are the addresses of its ports, and broker that of a proxy, to which it sends
	// its clients.
	listen, web, broker string
	proxy               *shoptest.Proxy
	kill                func()
}

// startServer starts a server with more settings of broker.conf, such as "a=b\n". It is killed when
// the test ends.
func startServer(t *testing.T, settings string) *server {
	t.Helper()
	s := &server{t: t, jars: serverJars(t), dir: t.TempDir(), settings: settings, listen: shoptest.FreeAddr(t),
		web: shoptest.FreeAddr(t), kill: func() {}}
	s.proxy = shoptest.StartProxy(t, s.listen)
	s.broker = s.proxy.Addr()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("Pulsar's log:\n%s", s.log())
		}
	})
	s.start()
	return s
}

func port(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// start starts the server with what it has stored.
func (s *server) start() {
	s.t.Helper()
	config := filepath.Join(s.dir, "standalone.conf")
	text := fmt.Sprintf(`clusterName=standalone
brokerServicePort=%s
webServicePort=%s
bindAddress=127.0.0.1
advertisedListeners=plain:pulsar://%s
listeningInterface=lo
allowLoopback=true
managedLedgerDefaultEnsembleSize=1
managedLedgerDefaultWriteQuorum=1
managedLedgerDefaultAckQuorum=1
allowAutoTopicCreation=true
allowAutoTopicCreationType=non-partitioned
loadManagerClassName=org.apache.pulsar.broker.loadbalance.NoopLoadManager
%s`, port(s.listen), port(s.web), s.broker, s.settings)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	args := []string{"-Xmx512m", "-XX:MaxDirectMemorySize=1100m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"}
	for _, opened := range []string{"java.base/java.lang", "java.base/java.nio", "java.base/jdk.internal.misc",
		"java.base/sun.net", "java.management/sun.management", "jdk.management/com.sun.management.internal",
		"java.base/jdk.internal.platform"} {
		args = append(args, "--add-opens", opened+"=ALL-UNNAMED")
	}
	// A killed server leaves 13 MB of native libraries in its directory for temporary files.
	args = append(args, "-Djava.io.tmpdir="+s.dir, "-Dio.netty.tryReflectionSetAccessible=true",
		"-cp", filepath.Join(s.jars, "*"), "org.apache.pulsar.PulsarStandaloneStarter", "--config", config,
		"-nfw", "-nss", "--metadata-url", "rocksdb://"+filepath.Join(s.dir, "meta"),
		"--bookkeeper-dir", filepath.Join(s.dir, "bk"))
	cmd := exec.Command("java", args...)
	cmd.Dir = s.dir
	out, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	exited, err := pglocal.StartProcess(cmd)
	if err != nil {
		s.t.Fatalf("start Pulsar: %v", err)
	}
	s.kill = func() {
		_ = cmd.Process.Kill() // fails only if the process has exited
		<-exited
	}
	shoptest.Eventually(s.t, readyWithin, "Pulsar is ready", func() bool {
		select {
		case <-exited:
			s.t.Fatalf("Pulsar ended:\n%s", s.log())
		default:
		}
		response, err := http.Get("http://" + s.web + "/admin/v2/brokers/health")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

func (s *server) log() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	lines := strings.Split(string(text), "\n")
	return strings.Join(lines[max(len(lines)-40, 0):], "\n")
}

// Restart kills the server, like a crash, and starts it again.
func (s *server) Restart() {
	s.t.Helper()
	s.kill()
	s.start()
}
