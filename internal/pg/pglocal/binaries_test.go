package pglocal

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// fakeBinaries is a folder of scripts that call themselves Postgres of the given version.
func fakeBinaries(t *testing.T, version string) string {
	t.Helper()
	dir := folder(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := []byte("#!/bin/sh\necho 'postgres (PostgreSQL) " + version + "'\n")
	for _, name := range []string{"initdb", "postgres"} {
		if err := os.WriteFile(filepath.Join(dir, name), script, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func find(t *testing.T, s source, want int) (binaries, error) {
	t.Helper()
	k := &cluster{config: Config{Dir: folder(t)}}
	if err := k.settle(); err != nil {
		t.Fatal(err)
	}
	return s.find(deadline(t), want, k.owner, func(string) {})
}

func TestFind(t *testing.T) {
	t.Parallel()
	old, current, latest := fakeBinaries(t, "14.9"), fakeBinaries(t, "16.3 (Debian 16.3-1)"), fakeBinaries(t, "18beta1")
	here := source{dirs: []string{"/nowhere", old, latest, current}}

	for _, test := range []struct {
		name   string
		source source
		want   int
		dir    string
		errs   []string
	}{
		{name: "the first that is new enough", source: here, dir: latest},
		{name: "the one that made the data", source: here, want: 16, dir: current},
		{name: "none made the data", source: here, want: 17,
			errs: []string{"Postgres 17", "Postgres 18", latest, "--fresh"}},
		{name: "PG_BIN wins", source: source{pgBin: current, dirs: here.dirs}, dir: current},
		{name: "PG_BIN leads nowhere", source: source{pgBin: "/nowhere", dirs: here.dirs},
			errs: []string{"PG_BIN", "/nowhere"}},
		{name: "PG_BIN is too old", source: source{pgBin: old, dirs: here.dirs},
			errs: []string{"PG_BIN", "14", "15 or newer"}},
		{name: "PG_BIN is for other data", source: source{pgBin: current, dirs: here.dirs}, want: 18,
			errs: []string{"Postgres 18", "Postgres 16"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b, err := find(t, test.source, test.want)
			if test.errs != nil {
				wantError(t, err, test.errs...)
				return
			}
			if err != nil || b.dir != test.dir {
				t.Errorf("found %v, %v; want %s", b, err, test.dir)
			}
		})
	}
}

func TestNewestFirst(t *testing.T) {
	t.Parallel()
	root := folder(t)
	for _, version := range []string{"9", "15", "100"} {
		if err := os.MkdirAll(filepath.Join(root, "postgresql@"+version, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, dir := range newestFirst(filepath.Join(root, "*", "bin")) {
		got = append(got, filepath.Base(filepath.Dir(dir)))
	}
	if want := []string{"postgresql@100", "postgresql@15", "postgresql@9"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNoPostgresOffline(t *testing.T) {
	t.Parallel()
	offline := httptest.NewServer(nil)
	offline.Close()
	old := fakeBinaries(t, "14.9")
	_, err := find(t, source{dirs: []string{old}, cache: folder(t), mirror: offline.URL}, 0)
	if !errors.Is(err, ErrNoPostgres) {
		t.Errorf("got %v, want ErrNoPostgres", err)
	}
	wantError(t, err, "apt-get install postgresql", "brew install postgresql@17", "docker compose up", "PG_BIN",
		"DATABASE_URL",
		offline.URL, old+" is Postgres 14")
}

func TestDownloadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(deadline(t))
	mirror := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { cancel() }))
	t.Cleanup(mirror.Close)
	_, err := source{cache: folder(t), mirror: mirror.URL}.find(ctx, 0, nil, func(string) {})
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrNoPostgres) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// archive is a tar.xz of bin/initdb, bin/postgres and bin/pg_ctl: scripts that call themselves
// Postgres 17.5, all 0700.
const archive = "/Td6WFoAAAFpIt42AgAhARwAAAAQz1jM4Cf/ALBdADEaShsO1TDyWxuE7yh9tnRk5oBYGP1JAB66pOPEDO/qz1/+a9jH92htHTXN" +
	"AsJxlkJa9Hm8yzb3lgkwcVcrwvrGzmVZ6nvqMCXbgLeHocmyJBLGA5tcFpJdFXctDQxcT3/Uwd4L+dwi3dl3TEJ0TmNH/UVwUPaG" +
	"lPVV2W9oJFbbUxNSHN7gNGSyHJnv3Ot9M1IQIPFOjdbRIGMbp+hG8ELAx/2ThHGRvbvPpesy7FgAAJWg2I0AAcgBgFAAAD/5a4I+" +
	"MA2LAgAAAAABWVo="

func TestDownload(t *testing.T) {
	t.Parallel()
	txz, err := base64.StdEncoding.DecodeString(archive)
	if err != nil {
		t.Fatal(err)
	}
	var jar bytes.Buffer
	w := zip.NewWriter(&jar)
	entry, err := w.Create("postgres.txz")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := entry.Write(txz); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if filepath.Ext(r.URL.Path) == ".jar" {
			_, _ = w.Write(jar.Bytes())
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(mirror.Close)

	from := source{cache: folder(t), mirror: mirror.URL}
	want := binaries{from.downloads(), 17}
	if b, err := find(t, from, 0); b != want {
		t.Fatalf("found %v, %v; want %v", b, err, want)
	}
	entries, err := os.ReadDir(from.cache)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("the cache holds %v, want only the programs", entries)
	}
	mirror.Close()
	if b, err := find(t, from, 0); b != want {
		t.Errorf("the second time: %v, %v; want %v from the cache", b, err, want)
	}
}
