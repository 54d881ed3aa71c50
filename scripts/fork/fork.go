package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/onceshop/onceshop/internal/money"
)

// wings can be left out: each is internal/NAME and cmd/shop/NAME.go.
var wings = []string{"demo", "proof"}

// fork writes the new shop from the repository in the folder root.
func (s shop) fork(root string) error {
	if _, err := os.Stat(s.folder); err == nil {
		return fmt.Errorf("%s exists already", s.folder)
	}
	old, err := modulePathOf(root)
	if err != nil {
		return err
	}
	files, err := filesOf(root)
	if err != nil {
		return err
	}
	for _, file := range files {
		if s.leavesOut(file) {
			continue
		}
		if err := s.copy(root, file, old); err != nil {
			return err
		}
	}
	for _, step := range []func() error{s.rename, s.cutDocuments, s.paint, s.addProduct, s.addMigration} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func modulePathOf(root string) (string, error) {
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("run this in the root of the repository: %w", err)
	}
	path, _, _ := strings.Cut(strings.TrimPrefix(string(text), "module "), "\n")
	return path, nil
}

// filesOf lists the files of the repository: those that git has, or would take.
func filesOf(root string) ([]string, error) {
	list := exec.CommandContext(context.Background(), "git", "ls-files", "-z", "--cached", "--others",
		"--exclude-standard")
	list.Dir, list.Stderr = root, os.Stderr
	output, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list the files of the repository: git: %w", err)
	}
	files := strings.Split(strings.TrimRight(string(output), "\x00"), "\x00")
	return slices.DeleteFunc(files, func(file string) bool { // deleted, and not yet committed
		_, err := os.Lstat(filepath.Join(root, file))
		return err != nil
	}), nil
}

// leavesOut reports whether the new shop does without a file: this program, or a part of a wing.
func (s shop) leavesOut(file string) bool {
	out := strings.HasPrefix(file, "scripts/fork/")
	for _, wing := range s.without {
		out = out || strings.HasPrefix(file, "internal/"+wing+"/") || file == "cmd/shop/"+wing+".go"
	}
	return out
}

// copy writes a file with the new module path.
func (s shop) copy(root, file, old string) error {
	from, to := filepath.Join(root, file), filepath.Join(s.folder, file)
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil { //nolint:gosec // as git makes it
		return err
	}
	text = bytes.ReplaceAll(text, []byte(old), []byte(s.module))
	return os.WriteFile(to, text, info.Mode().Perm()) //nolint:gosec // the folder is the caller's
}

// rename sets the name of the shop, and what must differ between two shops on one machine.
func (s shop) rename() error {
	slug := s.slug()
	return s.edit(
		edit{"internal/app/config.go", `envDefault:"Onceshop"`, `envDefault:"` + s.name + `"`},
		edit{"internal/app/config.go", `"/var/lib/onceshop"`, `"/var/lib/` + slug + `"`},
		edit{"internal/app/config.go", `filepath.Join(cache, "onceshop")`, `filepath.Join(cache, "` + slug + `")`},
		edit{"internal/api/openapi.yaml", "title: onceshop\n", `title: "` + s.name + "\"\n"},
		edit{"docker-compose.yml", "onceshop", slug},
		edit{"deploy/ha/docker-compose.yml", "onceshop", slug},
		edit{"README.md", "# onceshop\n", "# " + s.name + "\n\nA fork of onceshop.\n"},
	)
}

// cutDocuments leaves out what documents have only for a wing that is not there.
func (s shop) cutDocuments() error {
	for _, document := range []string{"README.md", "docs/tour.md", "docs/strategies.md"} {
		path := filepath.Join(s.folder, document)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, wing := range s.without {
			part := regexp.MustCompile("(?s)<!-- " + wing + " -->\n.*?<!-- /" + wing + " -->\n+")
			text = part.ReplaceAll(text, nil)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil { //nolint:gosec // the folder is the caller's
			return err
		}
	}
	return nil
}

// addProduct puts the product first. The examples stay with the wings, whose tests buy them.
func (s shop) addProduct() error {
	if s.product == "" {
		return nil
	}
	parts := firstProduct.FindStringSubmatch(s.product)
	price, err := money.Parse(parts[3], parts[4])
	if err != nil {
		return fmt.Errorf("-product %s: %w", s.product, err)
	}
	line := fmt.Sprintf("\t{SKU: %q, Name: %q, Currency: %q, UnitPrice: %d},\n",
		parts[1], parts[2], parts[4], price.Minor)
	const catalog, list = "internal/app/catalog.go", "var catalog = []orders.Product{\n"
	path := filepath.Join(s.folder, catalog)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, after, found := strings.Cut(string(text), list)
	examples, rest, closed := strings.Cut(after, "\n}\n")
	if !found || !closed {
		return fmt.Errorf("%s has no list of products", catalog)
	}
	if len(s.without) == len(wings) {
		examples = ""
	} else {
		examples += "\n"
	}
	text = []byte(before + list + line + examples + "}\n" + rest)
	return os.WriteFile(path, text, 0o600) //nolint:gosec // the folder is the caller's
}

// addMigration adds a first file above the numbers of this repository's own.
func (s shop) addMigration() error {
	slug := s.slug()
	text := fmt.Sprintf(`-- +goose Up

-- What only %s has.
-- A schema of its own keeps its tables apart from those of later releases.
CREATE SCHEMA IF NOT EXISTS %s;

-- +goose Down
DROP SCHEMA %[2]s;
`, s.name, slug)
	file := filepath.Join(s.folder, "db/migrations/10001_"+slug+".sql")
	return os.WriteFile(file, []byte(text), 0o644) //nolint:gosec // as git makes it
}

// edit replaces all that a file has of a text.
type edit struct{ file, old, new string }

func (s shop) edit(edits ...edit) error {
	for _, e := range edits {
		path := filepath.Join(s.folder, e.file)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Contains(text, []byte(e.old)) {
			return fmt.Errorf("%s does not contain %q", e.file, e.old)
		}
		text = bytes.ReplaceAll(text, []byte(e.old), []byte(e.new))
		if err := os.WriteFile(path, text, 0o600); err != nil { //nolint:gosec // the folder is the caller's
			return err
		}
	}
	return nil
}
