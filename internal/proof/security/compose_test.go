package security_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The containers: the shop is a database user of few rights, Redis and NATS want passwords, and the
// network of the servers leads nowhere.
func TestCompose(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	compose := string(text)
	_, services, _ := strings.Cut(compose, "\nservices:\n")
	services, rest, _ := strings.Cut(services, "\nconfigs:\n")
	service := make(map[string]string)
	names := regexp.MustCompile(`(?m)^  ([a-z]+):$`).FindAllStringSubmatchIndex(services, -1)
	for i, at := range names {
		end := len(services)
		if i+1 < len(names) {
			end = names[i+1][0]
		}
		service[services[at[2]:at[3]]] = services[at[1]:end]
	}
	password := func(name string) string { return `\$\{` + name + `:\?[^}]*\}` }
	for name, patterns := range map[string][]string{
		"shop": {`postgres://shop_app:` + password("SHOP_APP_PASSWORD") + `@`,
			`redis://:` + password("REDIS_PASSWORD") + `@`,
			`nats://shop:` + password("NATS_PASSWORD") + `@`, `networks: \[front, back\]`,
			`grants: \{ condition: service_completed_successfully \}`},
		"postgres": {`networks: \[back\]`}, "nats": {`networks: \[back\]`}, "grants": {`networks: \[back\]`},
		"migrate": {`networks: \[back\]`}, "mailpit": {`networks: \[front\]`},
		"redis": {`networks: \[back\]`, `redis-server, /etc/redis.conf`},
	} {
		for _, pattern := range patterns {
			if !regexp.MustCompile(pattern).MatchString(service[name]) {
				t.Errorf("%s has no %s:\n%s", name, pattern, service[name])
			}
		}
	}
	for _, name := range []string{"postgres", "redis", "nats", "migrate", "grants", "psp"} {
		if strings.Contains(service[name], "ports:") {
			t.Errorf("%s publishes a port", name)
		}
	}
	for _, pattern := range []string{`requirepass ` + password("REDIS_PASSWORD"),
		`user: shop\n +password: "` + password("NATS_PASSWORD"), `(?m)^  back:\n    internal: true$`} {
		if !regexp.MustCompile(pattern).MatchString(rest) {
			t.Errorf("no %s", pattern)
		}
	}
	document, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	// TestDatabaseUser proves that these are enough, and no more.
	grants := regexp.MustCompile(`(?s)GRANT [^;]*;`)
	want := grants.FindAllString(string(document[:strings.LastIndex(string(document), "```")]), -1)
	space := regexp.MustCompile(`\s+`)
	for _, grant := range want {
		if !strings.Contains(space.ReplaceAllString(rest, " "), space.ReplaceAllString(grant, " ")) {
			t.Errorf("docker-compose.yml has no %s", grant)
		}
	}
	if len(want) < 4 {
		t.Errorf("%d grants: were they moved?", len(want))
	}
}
