package redisclient_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceshop/onceshop/internal/redisclient"
)

func TestOpen(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]struct {
		addrs    []string
		cluster  bool
		db       int
		username string
		password string
		tls      bool
	}{
		"redis://localhost":                {addrs: []string{"localhost:6379"}},
		"redis://127.0.0.1:7000/3":         {addrs: []string{"127.0.0.1:7000"}, db: 3},
		"redis://[::1]:7000":               {addrs: []string{"[::1]:7000"}},
		"redis://shop:s%2Fcret@h:1/0":      {addrs: []string{"h:1"}, username: "shop", password: "s/cret"},
		"redis://:secret@h:1?db=2":         {addrs: []string{"h:1"}, password: "secret", db: 2},
		"rediss://h:1":                     {addrs: []string{"h:1"}, tls: true},
		"redis://:secret@h:1?cluster=true": {addrs: []string{"h:1"}, cluster: true, password: "secret"},
		"redis://a,b:2":                    {addrs: []string{"a:6379", "b:2"}, cluster: true},
		"redis://a,b":                      {addrs: []string{"a:6379", "b:6379"}, cluster: true},
		"rediss://shop:secret@a:1,b:2": {addrs: []string{"a:1", "b:2"}, cluster: true, tls: true,
			username: "shop", password: "secret"},
		"redis://a:1,b:2/4?master_name=mymaster":        {addrs: []string{"FailoverClient"}, db: 4},
		"redis://:secret@a:1?master_name=mymaster&db=1": {addrs: []string{"FailoverClient"}, db: 1, password: "secret"},
	} {
		t.Run(url, func(t *testing.T) {
			t.Parallel()
			client, err := redisclient.Open(url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = client.Close() })
			var addrs []string
			switch client := client.(type) {
			case *redis.Client:
				o := client.Options()
				addrs = []string{o.Addr}
				if want.cluster || o.DB != want.db || o.Username != want.username || o.Password != want.password ||
					(o.TLSConfig != nil) != want.tls {
					t.Errorf("got %s, database %d of %s", o.Addr, o.DB, o.Username)
				}
				if o.MaxRetries != 0 || !o.ContextTimeoutEnabled {
					t.Errorf("%d retries, heeds the context: %t", o.MaxRetries, o.ContextTimeoutEnabled)
				}
			case *redis.ClusterClient:
				o := client.Options()
				addrs = o.Addrs
				if !want.cluster || o.Username != want.username || o.Password != want.password ||
					(o.TLSConfig != nil) != want.tls {
					t.Errorf("got a cluster of %v", o.Addrs)
				}
				if o.ClusterStateReloadInterval > 10*time.Second {
					t.Errorf("a new master is looked for every %s", o.ClusterStateReloadInterval)
				}
				if want.tls && o.TLSConfig.ServerName != "" {
					t.Errorf("every host is checked against the name %q", o.TLSConfig.ServerName)
				}
			}
			if !slices.Equal(addrs, want.addrs) {
				t.Errorf("addresses %q, want %q", addrs, want.addrs)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"",
		"localhost:6379",
		"127.0.0.1:6379",
		"http://localhost:6379",
		"s3cret@localhost:6379",
		"redis://shop:s3cret@h:port",
		"redis://shop:s3cret@h:1/zero",
		"redis://shop:s3cret@h:1/0/1",
		"redis://shop:s3cret@h:1?no_such_option=1",
		"redis://shop:s3cret@h:1?cluster=perhaps",
		"redis://shop:s3cret@a:1,b:1:1:1?db=s3cret",
		"redis://shop:s3cret@h:1\n",
		// Special characters of the password are not escaped.
		"redis://shop:12/s3cret@h:1",
		"redis://shop:12/s3cret/x@h:1/0",
		"redis://shop:12?s3cret@h:1",
		"redis://shop:s3cret%@h:1",
	} {
		t.Run(url, func(t *testing.T) {
			t.Parallel()
			client, err := redisclient.Open(url)
			if err == nil {
				client.Close()
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), "REDIS_URL") || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error is %q, want one that names the setting and gives nothing away", err)
			}
		})
	}
}
