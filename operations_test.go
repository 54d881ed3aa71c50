package onceshop_test

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	alertName  = regexp.MustCompile(`(?m)^ +- alert: (\w+)$`)
	runbook    = regexp.MustCompile(`(?m)^ +runbook: docs/operations\.md#(\w+)$`)
	metricUsed = regexp.MustCompile(`onceshop_\w+`)
	metricMade = regexp.MustCompile(`(?:Name: +|NewDesc\()"(onceshop_\w+)"`)
	settingIn  = regexp.MustCompile(`(?:name: |- )([A-Z][A-Z0-9]*_[A-Z_]+?)(?:_FILE)?[,=]`)
	histogram  = regexp.MustCompile(`_(?:bucket|count|sum)$`)
)

// Each alert has its section in the runbook, and uses metrics that the shop has.
func TestAlertsHaveARunbook(t *testing.T) {
	t.Parallel()
	alerts := read(t, "deploy/prometheus/alerts.yml")
	runbookText := read(t, "docs/operations.md")
	names, links := alertName.FindAllStringSubmatch(alerts, -1), runbook.FindAllStringSubmatch(alerts, -1)
	if len(names) == 0 || len(names) != len(links) {
		t.Fatalf("%d alerts with %d links to the runbook", len(names), len(links))
	}
	for i, name := range names {
		if links[i][1] != strings.ToLower(name[1]) || !strings.Contains(runbookText, "\n### "+name[1]+"\n") {
			t.Errorf("the runbook has no section %s, which %s links to", name[1], links[i][1])
		}
	}
	if got := strings.Count(runbookText, "\n### "); got != len(names) {
		t.Errorf("%d sections for %d alerts", got, len(names))
	}
	dashboard := read(t, "deploy/grafana/dashboards/shop.json")
	if n := strings.Count(dashboard, `"expr": `); n < 20 {
		t.Errorf("only %d expressions in the dashboard", n)
	}
	made := metricsMade(t)
	listed := read(t, "docs/operating.md")
	for metric := range made {
		if !strings.Contains(listed, "`"+metric+"`") {
			t.Errorf("docs/operating.md does not list %s", metric)
		}
	}
	for _, used := range metricUsed.FindAllString(alerts+runbookText+listed+dashboard, -1) {
		if !made[histogram.ReplaceAllString(used, "")] {
			t.Errorf("no metric is called %s", used)
		}
	}
}

// metricsMade returns the names of the metrics that the program has.
func metricsMade(t *testing.T) map[string]bool {
	t.Helper()
	made := map[string]bool{}
	err := filepath.WalkDir("internal", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		for _, found := range metricMade.FindAllStringSubmatch(read(t, path), -1) {
			made[found[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// The linker ignores a variable that does not exist.
func TestImageHasAVersion(t *testing.T) {
	t.Parallel()
	module := regexp.MustCompile(`(?m)^module (\S+)$`).FindStringSubmatch(read(t, "go.mod"))[1]
	declared := regexp.MustCompile(`(?m)^var (\w+), (\w+) string$`)
	variables := declared.FindStringSubmatch(read(t, "internal/app/version.go"))
	dockerfile := read(t, "Dockerfile")
	if len(variables) == 0 {
		t.Fatal("internal/app/version.go has no variables for the linker")
	}
	for _, variable := range variables[1:] {
		set := " -X " + module + "/internal/app." + variable + "=$" + strings.ToUpper(variable)
		if !strings.Contains(dockerfile, set) {
			t.Errorf("Dockerfile has no%s", set)
		}
	}
}

// The manifests for Kubernetes use settings that the shop has.
func TestManifestsUseSettings(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("deploy/kubernetes/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var settings string
	for _, file := range []string{"config.go", "limits.go", "windows.go", "../tracing/export.go"} {
		settings += read(t, filepath.Join("internal/app", file))
	}
	used := 0
	for _, path := range paths {
		for _, found := range settingIn.FindAllStringSubmatch(read(t, path), -1) {
			used++
			if !strings.Contains(settings, `env:"`+found[1]+`"`) {
				t.Errorf("%s uses %s, which is no setting", path, found[1])
			}
		}
	}
	if used < 10 {
		t.Errorf("only %d settings in %d manifests", used, len(paths))
	}
}

// Each manifest is applied, but for the example, and each secret that one mounts is in the example.
func TestManifestsAreComplete(t *testing.T) {
	t.Parallel()
	const folder, example = "deploy/kubernetes/", "secret.example.yaml"
	paths, err := filepath.Glob(folder + "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	applied, secrets := read(t, folder+"kustomization.yaml"), read(t, folder+example)
	for _, path := range paths {
		name := filepath.Base(path)
		if name != "kustomization.yaml" && strings.Contains(applied, "  - "+name+"\n") == (name == example) {
			t.Errorf("kustomization.yaml lists %s wrongly", name)
		}
		for _, mounted := range regexp.MustCompile(`value: /secrets/(\w+)`).FindAllStringSubmatch(read(t, path), -1) {
			if !strings.Contains(secrets, "\n  "+mounted[1]+": ") {
				t.Errorf("%s mounts %s, which %s does not have", path, mounted[1], example)
			}
		}
	}
}

// An image has one version in all compose files.
func TestImagesHaveOneVersion(t *testing.T) {
	t.Parallel()
	image := regexp.MustCompile(`(?m)^ +image: (?:&\w+ )?([\w./-]+):(\S+)$`)
	versions := map[string]string{}
	for _, file := range []string{"docker-compose.yml", "deploy/ha/docker-compose.yml"} {
		for _, found := range image.FindAllStringSubmatch(read(t, file), -1) {
			if before := versions[found[1]]; before != "" && before != found[2] {
				t.Errorf("%s has version %s of %s, not %s", file, found[2], found[1], before)
			}
			versions[found[1]] = found[2]
		}
	}
	if len(versions) < 8 {
		t.Errorf("only %d images: %v", len(versions), versions)
	}
}
