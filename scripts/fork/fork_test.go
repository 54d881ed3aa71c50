package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// kettle is another shop, in a folder that does not exist yet.
func kettle(t *testing.T, without ...string) shop {
	t.Helper()
	for _, wing := range wings {
		if _, err := os.Stat(filepath.Join(root, "internal", wing)); err != nil {
			t.Skipf("this copy has no %s: run the tests of a whole repository", wing)
		}
	}
	args := []string{"-module", "example.com/kettle", "-name", "Kettle & Co", "-color", "#0b6e4f",
		"-product", "KETTLE-1,The Kettle,49.00,EUR"}
	if len(without) > 0 {
		args = append(args, "-without", strings.Join(without, ","))
	}
	s, err := parse(append(args, filepath.Join(t.TempDir(), "kettle")))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.fork(root); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s shop) read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.folder, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A fork with both wings builds. CI also runs all tests of a fork without them.
func TestForkBuilds(t *testing.T) {
	t.Parallel()
	if os.Getenv("CI") == "" {
		t.Skip("it compiles a whole shop under another module path; CI=1 runs it")
	}
	s := kettle(t)
	for _, command := range []string{
		"gofmt -l cmd db internal web",
		"go build -o bin/shop ./cmd/shop",
		"go test . ./internal/money ./internal/problem",
	} {
		words := strings.Fields(command)
		run := exec.CommandContext(t.Context(), words[0], words[1:]...)
		run.Dir, run.Env = s.folder, append(os.Environ(), "GOFLAGS=-trimpath") // folders change, results do not
		output, err := run.CombinedOutput()
		if err != nil || words[0] == "gofmt" && len(output) > 0 {
			t.Errorf("%s: %v\n%s", command, err, output)
		}
	}
}

func TestForkLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for _, without := range [][]string{{"demo", "proof"}, {"demo"}, {}} {
		s := kettle(t, without...)
		files := 0
		err := filepath.WalkDir(s.folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			files++
			text, err := os.ReadFile(path)
			if strings.Contains(string(text), "onceshop/onceshop") {
				t.Errorf("%s names the old module", path)
			}
			return err
		})
		if err != nil || files < 200 {
			t.Errorf("%d files, %v", files, err)
		}
		for file, want := range map[string]string{
			"go.mod":                            "module example.com/kettle\n",
			"internal/app/config.go":            `envDefault:"Kettle & Co"`,
			"internal/app/catalog.go":           `"KETTLE-1", Name: "The Kettle", Currency: "EUR", UnitPrice: 4900},`,
			"db/migrations/10001_kettle_co.sql": "CREATE SCHEMA IF NOT EXISTS kettle_co;",
			"web/static/mark.svg":               "#0b6e4f",
			"docker-compose.yml":                "name: kettle_co\n",
			"deploy/ha/docker-compose.yml":      "postgres-standby:5432/kettle_co?",
			"internal/api/openapi.yaml":         "title: \"Kettle & Co\"\n",
			"README.md":                         "# Kettle & Co\n",
			"internal/app/apptest/seed.go":      "MUG-ONCE",
		} {
			if text := s.read(t, file); !strings.Contains(text, want) {
				t.Errorf("without %v: %s has no %q", without, file, want)
			}
		}
		alone := len(without) == len(wings)
		if examples := strings.Contains(s.read(t, "internal/app/catalog.go"), "MUG-ONCE"); examples == alone {
			t.Errorf("without %v: the examples are in the catalog: %t", without, examples)
		}
		for _, wing := range wings {
			out := strings.Contains(strings.Join(without, " "), wing)
			_, folder := os.Stat(filepath.Join(s.folder, "internal", wing))
			_, command := os.Stat(filepath.Join(s.folder, "cmd/shop", wing+".go"))
			if out && strings.Contains(s.read(t, "README.md")+s.read(t, "docs/tour.md"), "<!-- "+wing+" -->") {
				t.Errorf("without %v: README or tour have a part for %s", without, wing)
			}
			if os.IsNotExist(folder) != out || os.IsNotExist(command) != out {
				t.Errorf("without %v: wing %s: %v, %v", without, wing, folder, command)
			}
		}
	}
}

func TestForkRefuses(t *testing.T) {
	t.Parallel()
	good := map[string]string{"-module": "example.com/kettle", "-name": "Kettle"}
	for _, bad := range [][2]string{
		{"-module", "Example.com/kettle"}, {"-module", ""}, {"-module", "kettle\n"},
		{"-name", ""}, {"-name", `Kettle "Co"`}, {"-name", "Kettle`"}, {"-name", "two\nlines"}, {"-name", "12"},
		{"-color", "green"}, {"-color", "#0b6e4"}, {"-product", "KETTLE"}, {"-product", `K,"K",1,EUR`},
		{"-without", "web"}, {"-without", "demo,"},
	} {
		args := []string{}
		for flag, value := range good {
			if flag != bad[0] {
				args = append(args, flag, value)
			}
		}
		if _, err := parse(append(args, bad[0], bad[1], "folder")); err == nil {
			t.Errorf("%s %q is accepted", bad[0], bad[1])
		}
	}
	s := kettle(t, "demo", "proof")
	if err := s.fork(root); err == nil {
		t.Error("a folder that exists is overwritten")
	}
	s.folder, s.product = filepath.Join(t.TempDir(), "yen"), "KETTLE-1,The Kettle,49.50,JPY"
	if err := s.fork(root); err == nil {
		t.Error("a yen has cents")
	}
}

// Both accents can be read on their paper, whatever the color is.
func TestColorsCanBeRead(t *testing.T) {
	t.Parallel()
	for _, color := range []string{"#000000", "#ffffff", "#ffee00", "#0b6e4f", "#0000ff", "#ff0000", "#808080"} {
		light, dark := readable(color, lightPaper, 0), readable(color, darkPaper, 255)
		if ratio(light, lightPaper) < 4.5 || ratio(dark, darkPaper) < 4.5 || ratio(light, "#ffffff") < 4.5 {
			t.Errorf("%s: %s on light, %s on dark", color, light, dark)
		}
		if on := mix(color, 0, .85); ratio(on, dark) < 4.5 {
			t.Errorf("%s: %s on the accent %s", color, on, dark)
		}
	}
	if r := ratio("#000000", "#ffffff"); r < 20.99 || r > 21.01 {
		t.Errorf("black on white is %.2f", r)
	}
}
