package shoptest

import (
	"bytes"
	"io"
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Redis starts a Redis server for this test and returns its URL.
func Redis(t testing.TB) string {
	t.Helper()
	return StartRedis(t).URL()
}

// RedisServer is a redis-server process of one test. It stores nothing on disk, so Kill loses its
// data.
type RedisServer struct {
	t      testing.TB
	args   []string
	addr   string
	cmd    *exec.Cmd
	log    *bytes.Buffer
	exited chan struct{}
}

// StartRedis starts a Redis server on a free port of 127.0.0.1. Options are added to its command
// line, such as "--maxmemory-policy", "noeviction". The server is killed when the test ends.
func StartRedis(t testing.TB, options ...string) *RedisServer {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		Missing(t, "redis-server is not on the PATH: apt-get install redis-server, or brew install redis")
	}
	r := &RedisServer{t: t, args: append([]string{program, "--save", "", "--appendonly", "no", "--dir", t.TempDir()},
		options...)}
	t.Cleanup(r.Kill)
	// Another process can take the port before redis-server does.
	for try := 1; ; try++ {
		r.addr = FreeAddr(t)
		if r.start() {
			return r
		}
		if try == 5 {
			t.Fatalf("redis-server does not start: %s", r.log)
		}
	}
}

// URL returns the server's address. Restart does not change it.
func (r *RedisServer) URL() string { return "redis://" + r.addr + "/0" }

// Kill kills the server, like a crash. It may be called twice.
func (r *RedisServer) Kill() {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Kill() // fails only if the process has exited
	<-r.exited
	r.cmd = nil
}

// Restart kills the server if it runs and starts an empty one on the same port.
func (r *RedisServer) Restart() {
	r.t.Helper()
	r.Kill()
	Eventually(r.t, 10*time.Second, "redis-server runs on its port again", r.start)
}

// FlushAll deletes every key.
func (r *RedisServer) FlushAll() {
	r.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: r.addr, MaxRetries: -1})
	defer client.Close()
	if err := client.FlushAll(r.t.Context()).Err(); err != nil {
		r.t.Fatal(err)
	}
}

// start starts the server and reports whether it answers. If it does not, no process is left.
func (r *RedisServer) start() bool {
	host, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(r.args[0], append(r.args[1:], "--bind", host, "--port", port)...)
	r.log = &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = r.log, r.log
	if err := cmd.Start(); err != nil {
		r.t.Fatalf("start redis-server: %v", err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // it was killed, or its log has the reason
	}()
	r.cmd, r.exited = cmd, exited
	if r.answers() {
		return true
	}
	r.Kill()
	return false
}

// answers waits until the server answers. It reports false if the server exits first.
func (r *RedisServer) answers() bool {
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ping(r.addr) {
		select {
		case <-r.exited:
			return false
		case <-deadline:
			return false
		case <-tick.C:
		}
	}
	select {
	case <-r.exited: // another process answers on the port
		return false
	default:
		return true
	}
}

func ping(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return false
	}
	_, err = conn.Read(make([]byte, 1))
	return err == nil
}
