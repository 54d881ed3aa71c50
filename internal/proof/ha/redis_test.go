package ha

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceshop/onceshop/internal/proof/fleet"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const (
	redisPassword    = "of-redis"
	sentinelPassword = "of-sentinels"
)

// startRedis starts redis-server with the options and returns its process.
func startRedis(t *testing.T, address string, options ...string) *fleet.Process {
	t.Helper()
	args := append([]string{"--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir()}, options...)
	p := fleet.Start(t, "redis "+address, exec.Command(program(t, "redis-server", "redis-server"), args...))
	p.AwaitListening(address)
	return p
}

// failOver loses the master that holds the receipts' keys, under load, and returns when the shop
// uses the new one. Each buyer gets one receipt.
func failOver(t *testing.T, w *world, master *fleet.Process, client redis.UniversalClient) {
	t.Helper()
	nodes := []*node{w.serve(), w.serve()}
	buyers := w.buy(8, nodes[0].addr, nodes[1].addr)
	buyers.more(100)
	shoptest.Eventually(t, fleet.Soon, "Redis holds claims", func() bool { return w.claimed(client, time.Time{}) })
	master.Kill()
	killed := time.Now()
	w.receiptsAgain(killed)
	t.Logf("FIGURES receipts again %s after the master was killed", time.Since(killed).Round(time.Millisecond))
	shoptest.Eventually(t, fleet.Healed, "there is a new master", func() bool {
		return client.Set(t.Context(), "probe", "1", time.Minute).Err() == nil
	})
	master2 := time.Now()
	t.Logf("FIGURES a new master %s after the master was killed", master2.Sub(killed).Round(time.Millisecond))
	shoptest.Eventually(t, fleet.Healed, "the new master holds claims", func() bool {
		return w.claimed(client, master2)
	})
	buyers.more(100)
	var degraded float64
	for _, n := range nodes {
		degraded += n.Metric("onceshop_redis_degraded_total", "")
	}
	t.Logf("FIGURES %g receipts were sent without Redis", degraded)
	if len(buyers.failures) > 0 {
		t.Errorf("orders noticed that Redis was away: %s", buyers.failures[0])
	}
	buyers.verify()
}

// claimed reports whether Redis holds the claim of a receipt that was sent after the moment.
func (w *world) claimed(client redis.UniversalClient, after time.Time) bool {
	w.t.Helper()
	var order string
	err := w.Pool.QueryRow(w.t.Context(), `SELECT coalesce((SELECT order_id::text FROM receipts WHERE sent_at > $1
		ORDER BY sent_at DESC LIMIT 1), '')`, after).Scan(&order)
	if err != nil {
		w.t.Fatal(err)
	}
	return order != "" && client.Get(w.t.Context(), "onceshop:receipt:"+order).Val() == "done"
}

// Three Sentinels, which have a password of their own, replace a killed master.
func TestRedisSentinel(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	master, replica := shoptest.FreeAddr(t), shoptest.FreeAddr(t)
	password := []string{"--requirepass", redisPassword, "--masterauth", redisPassword}
	first := startRedis(t, master, append(password, "--port", port(t, master))...)
	startRedis(t, replica, append(password, "--port", port(t, replica), "--replicaof", "127.0.0.1 "+port(t, master))...)
	awaitReplica(t, redis.NewClient(&redis.Options{Addr: replica, Password: redisPassword}))
	var sentinels []string
	for range 3 {
		addr := shoptest.FreeAddr(t)
		path := filepath.Join(t.TempDir(), "sentinel.conf")
		config := fmt.Sprintf("port %s\nrequirepass %s\nsentinel sentinel-pass %s\n"+
			"sentinel monitor shop 127.0.0.1 %s 2\nsentinel auth-pass shop %s\n"+
			"sentinel down-after-milliseconds shop 1000\nsentinel failover-timeout shop 5000\n",
			port(t, addr), sentinelPassword, sentinelPassword, port(t, master), redisPassword)
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		sentinel := exec.Command(program(t, "redis-server", "redis-server"), path, "--sentinel",
			"--bind", "127.0.0.1", "--dir", t.TempDir())
		fleet.Start(t, "sentinel "+addr, sentinel).AwaitListening(addr)
		sentinels = append(sentinels, addr)
	}
	for _, addr := range sentinels {
		awaitSentinel(t, addr)
	}
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "shop", SentinelAddrs: sentinels,
		SentinelPassword: sentinelPassword, Password: redisPassword})
	t.Cleanup(func() { _ = client.Close() })
	w := setup(t, map[string]string{"REDIS_URL": fmt.Sprintf("redis://:%s@%s/0?master_name=shop&sentinel_password=%s",
		redisPassword, strings.Join(sentinels, ","), sentinelPassword)})
	failOver(t, w, first, client)
}

func awaitSentinel(t *testing.T, addr string) {
	t.Helper()
	sentinel := redis.NewSentinelClient(&redis.Options{Addr: addr, Password: sentinelPassword})
	defer sentinel.Close()
	shoptest.Eventually(t, fleet.Soon, "a Sentinel knows the others and the replica", func() bool {
		info, err := sentinel.Master(t.Context(), "shop").Result()
		return err == nil && info["num-other-sentinels"] == "2" && info["num-slaves"] == "1"
	})
}

// awaitReplica waits until a server follows its master, and closes the client.
func awaitReplica(t *testing.T, client *redis.Client) {
	t.Helper()
	defer client.Close()
	shoptest.Eventually(t, fleet.Soon, "the replica follows its master", func() bool {
		info, err := client.Info(t.Context(), "replication").Result()
		return err == nil && strings.Contains(info, "master_link_status:up")
	})
}

// A Cluster of three masters with a replica each, with passwords and TLS, replaces a killed master.
// REDIS_URL has one of its addresses.
func TestRedisCluster(t *testing.T) {
	t.Parallel()
	shoptest.Long(t)
	ca := makeCertificates(t)
	var servers []*fleet.Process
	var addrs, buses []string
	for range 6 {
		addr, bus := shoptest.FreeAddr(t), shoptest.FreeAddr(t)
		addrs, buses = append(addrs, addr), append(buses, bus)
		servers = append(servers, startRedis(t, addr, "--port", "0", "--tls-port", port(t, addr),
			"--tls-cert-file", ca.certificate, "--tls-key-file", ca.key, "--tls-ca-cert-file", ca.root,
			"--tls-auth-clients", "no", "--tls-replication", "yes", "--tls-cluster", "yes",
			"--requirepass", redisPassword, "--masterauth", redisPassword,
			"--cluster-enabled", "yes", "--cluster-port", port(t, bus), "--cluster-node-timeout", "1000",
			// A server that is not told asks the connection for its peer, and dies if that is gone.
			"--cluster-announce-ip", "127.0.0.1"))
	}
	formCluster(t, ca, addrs, buses)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs, Password: redisPassword, TLSConfig: ca.config,
		ClusterStateReloadInterval: time.Second})
	t.Cleanup(func() { _ = client.Close() })
	w := setup(t, map[string]string{"SSL_CERT_FILE": ca.root,
		"REDIS_URL": fmt.Sprintf("rediss://:%s@%s?cluster=true", redisPassword, addrs[1])})
	failOver(t, w, servers[0], client)
}

// formCluster gives the first three servers the slots, and each of the others one of them to
// follow.
func formCluster(t *testing.T, ca certificates, addrs, buses []string) {
	t.Helper()
	var clients []*redis.Client
	do := func(client *redis.Client, args ...any) error { return client.Do(t.Context(), args...).Err() }
	for _, addr := range addrs {
		client := redis.NewClient(&redis.Options{Addr: addr, Password: redisPassword, TLSConfig: ca.config})
		t.Cleanup(func() { _ = client.Close() })
		clients = append(clients, client)
	}
	for i, slots := range [][2]int{{0, 5460}, {5461, 10921}, {10922, 16383}} {
		if err := do(clients[i], "CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]); err != nil {
			t.Fatal(err)
		}
	}
	for i := range addrs[1:] {
		if err := do(clients[0], "CLUSTER", "MEET", "127.0.0.1", port(t, addrs[i+1]), port(t, buses[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	for i, client := range clients[3:] {
		master, err := clients[i].Do(t.Context(), "CLUSTER", "MYID").Text()
		if err != nil {
			t.Fatal(err)
		}
		shoptest.Eventually(t, fleet.Soon, "a replica knows its master", func() bool {
			return do(client, "CLUSTER", "REPLICATE", master) == nil
		})
		awaitReplica(t,
			redis.NewClient(&redis.Options{Addr: addrs[i+3], Password: redisPassword, TLSConfig: ca.config}))
	}
	for _, client := range clients {
		shoptest.Eventually(t, fleet.Soon, "the cluster is whole", func() bool {
			info, err := client.ClusterInfo(t.Context()).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") &&
				strings.Contains(info, "cluster_known_nodes:6")
		})
	}
}

// certificates are files of a private authority and of a server at 127.0.0.1.
type certificates struct {
	root, certificate, key string
	config                 *tls.Config
}

func makeCertificates(t *testing.T) (c certificates) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		must(os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, &rootKey.PublicKey, rootKey)
	must(err)
	c.root = write("root.pem", "CERTIFICATE", rootDER)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "redis"},
		NotBefore: root.NotBefore, NotAfter: root.NotAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, &key.PublicKey, rootKey)
	must(err)
	c.certificate = write("redis.pem", "CERTIFICATE", leafDER)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	c.key = write("redis.key", "PRIVATE KEY", keyDER)
	parsed, err := x509.ParseCertificate(rootDER)
	must(err)
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	c.config = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return c
}
