package pglocal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// ErrNoPostgres reports that this machine has no Postgres and that none could be downloaded. Its
// text lists the solutions.
var ErrNoPostgres = errors.New(`no Postgres found and none could be downloaded; choose one:
  Debian, Ubuntu:  apt-get install postgresql
  macOS:           brew install postgresql@17
  Docker:          docker compose up
  or set PG_BIN to the folder that holds initdb and postgres, or DATABASE_URL to a running server`)

const (
	oldestPostgres     = 15
	downloadedPostgres = embeddedpostgres.V17
)

// source lists where to find Postgres' programs.
type source struct {
	pgBin  string   // the setting PG_BIN: use only this folder
	dirs   []string // folders to search, the best first; they need not exist
	cache  string   // where downloads are kept, or ""
	mirror string   // Maven repository to download from; "" means the public one
}

// binaries is a folder that holds initdb and postgres, both of one major version.
type binaries struct {
	dir   string
	major int
}

// machine returns the source for this machine and its environment.
func machine(ctx context.Context) source {
	s := source{pgBin: os.Getenv("PG_BIN"), cache: cacheFolder()}
	s.dirs = append(newestFirst("/usr/lib/postgresql/*/bin"), newestFirst("/usr/pgsql-*/bin")...)
	for _, name := range []string{"postgres", "initdb"} {
		if path, err := exec.LookPath(name); err == nil {
			if real, err := filepath.EvalSymlinks(path); err == nil {
				s.dirs = append(s.dirs, filepath.Dir(real))
			}
		}
	}
	if dir, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		s.dirs = append(s.dirs, strings.TrimSpace(string(dir)))
	}
	s.dirs = append(s.dirs, newestFirst("/opt/homebrew/opt/postgresql*/bin")...)
	s.dirs = append(s.dirs, newestFirst("/usr/local/opt/postgresql*/bin")...)
	return s
}

// cacheFolder returns the folder for downloads. All data folders share it, so tests in temporary
// folders download once. Root gets another folder, because the unprivileged user that runs the
// server cannot reach root's home.
func cacheFolder() string {
	if os.Geteuid() == 0 && runtime.GOOS == "linux" {
		return "/var/cache/onceshop"
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "onceshop")
}

var number = regexp.MustCompile(`\d+`)

// newestFirst lists the folders that match, sorted by the last number in their path.
func newestFirst(pattern string) []string {
	dirs, _ := filepath.Glob(pattern) // the only error is a malformed pattern
	version := func(dir string) int {
		all := number.FindAllString(dir, -1)
		if all == nil {
			return 0
		}
		n, _ := strconv.Atoi(all[len(all)-1])
		return n
	}
	slices.SortFunc(dirs, func(a, b string) int { return cmp.Compare(version(b), version(a)) })
	return dirs
}

// find returns binaries that the given user can run, of the wanted major version or, if it is 0,
// the best ones. It downloads Postgres if this machine has none.
func (s source) find(ctx context.Context, want int, as *syscall.Credential, progress func(string)) (binaries, error) {
	found, skipped := s.installed(ctx, as)
	if s.pgBin != "" && len(found) == 0 {
		return binaries{}, fmt.Errorf("PG_BIN does not lead to a usable Postgres: %w", errors.Join(skipped...))
	}
	if len(found) == 0 && ctx.Err() == nil {
		progress("downloading Postgres " + string(downloadedPostgres))
		b, err := s.download(ctx, as)
		if err != nil && ctx.Err() == nil {
			return binaries{}, fmt.Errorf("%w: %w", ErrNoPostgres, errors.Join(append(skipped, err)...))
		}
		found = []binaries{b}
	}
	if ctx.Err() != nil {
		return binaries{}, ctx.Err()
	}
	for _, b := range found {
		if want == 0 || b.major == want {
			return b, nil
		}
	}
	return binaries{}, fmt.Errorf("the data was made by Postgres %d, but here is only Postgres %d (%s): "+
		"install Postgres %[1]d or set PG_BIN to it, or start over with --fresh", want, found[0].major, found[0].dir)
}

// installed probes all folders. It also returns why it skipped a Postgres that it cannot use.
func (s source) installed(ctx context.Context, as *syscall.Credential) (found []binaries, skipped []error) {
	dirs := slices.Clone(s.dirs)
	if s.cache != "" {
		dirs = append(dirs, s.downloads())
	}
	if s.pgBin != "" {
		dirs = []string{s.pgBin}
	}
	seen := make(map[string]bool)
	for _, dir := range dirs {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		b, err := probe(ctx, dir, as)
		switch {
		case err == nil:
			found = append(found, b)
		case s.pgBin != "" || !errors.Is(err, fs.ErrNotExist):
			skipped = append(skipped, err)
		}
	}
	return found, skipped
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// probe runs dir's postgres as the given user to get its version. It returns fs.ErrNotExist if a
// program is missing.
func probe(ctx context.Context, dir string, as *syscall.Credential) (binaries, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return binaries{}, err
	}
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return binaries{}, err
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version")
	cmd.Dir, cmd.Env, cmd.SysProcAttr = "/", environment(), &syscall.SysProcAttr{Credential: as}
	out, err := cmd.Output()
	if errors.Is(err, fs.ErrPermission) && as != nil {
		return binaries{}, fmt.Errorf("%s cannot be run by the unprivileged user (uid %d) that Postgres needs "+
			"under root", dir, as.Uid)
	}
	if err != nil {
		return binaries{}, fmt.Errorf("run %s --version: %w", cmd.Path, err)
	}
	match := versionLine.FindSubmatch(out)
	if match == nil {
		return binaries{}, fmt.Errorf("%s --version says %q, not a version of Postgres", cmd.Path, out)
	}
	major, err := strconv.Atoi(string(match[1]))
	if err != nil || major < oldestPostgres {
		return binaries{}, fmt.Errorf("%s is Postgres %s; version %d or newer is needed", dir, match[1], oldestPostgres)
	}
	return binaries{dir, major}, nil
}

// downloads returns the folder of downloaded programs. It need not exist.
func (s source) downloads() string {
	return filepath.Join(s.cache, "postgres-"+string(downloadedPostgres), "bin")
}

// download fetches Postgres into the cache. It returns at once if ctx ends. The transfer cannot be
// interrupted and continues in the background.
func (s source) download(ctx context.Context, as *syscall.Credential) (binaries, error) {
	if s.cache == "" {
		return binaries{}, errors.New("no folder to download Postgres to: HOME is not set")
	}
	result := make(chan error, 1)
	go func() { result <- s.fetch() }()
	select {
	case <-ctx.Done():
		return binaries{}, ctx.Err()
	case err := <-result:
		if err != nil {
			return binaries{}, fmt.Errorf("download Postgres: %w", err)
		}
	}
	return probe(ctx, s.downloads(), as)
}

// fetch downloads and unpacks into another folder and renames it at the end, so that no process
// finds a partial Postgres.
func (s source) fetch() error {
	if err := os.MkdirAll(s.cache, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(s.cache, "download-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)

	config := embeddedpostgres.DefaultConfig().Version(downloadedPostgres).Logger(io.Discard).Port(0).
		CachePath(work).RuntimePath(filepath.Join(work, "run")).BinariesPath(filepath.Join(work, "unpacked")).
		// initdb rejects this name, so Start fails after unpacking and never runs a server
		Username("pg_refused")
	if s.mirror != "" {
		config = config.BinaryRepositoryURL(s.mirror)
	}
	startErr := embeddedpostgres.NewDatabase(config).Start()
	http.DefaultClient.CloseIdleConnections() // of the download; each has two goroutines
	unpacked := filepath.Join(work, "unpacked")
	if _, err := os.Stat(filepath.Join(unpacked, "bin", "postgres")); err != nil {
		return cmp.Or(startErr, err)
	}
	if err := openToAll(s.cache, unpacked); err != nil {
		return err
	}
	target := filepath.Dir(s.downloads())
	if err := os.Rename(unpacked, target); err != nil {
		if _, missing := os.Stat(target); missing != nil {
			return err
		} // otherwise another process was faster
	}
	return nil
}

// openToAll lets every user enter the cache and read and run the files of the tree, regardless of
// the umask.
func openToAll(cache, tree string) error {
	if err := os.Chmod(cache, 0o755); err != nil {
		return err
	}
	return filepath.WalkDir(tree, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		ownersRights := info.Mode().Perm() & 0o500
		return os.Chmod(path, info.Mode().Perm()|ownersRights>>3|ownersRights>>6)
	})
}
