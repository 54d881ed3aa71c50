package pglocal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const leftoverPatience = 10 * time.Second // before a leftover server is no longer asked, but told

// cluster is a folder with the data of one server, and what is needed to work on it.
type cluster struct {
	config   Config
	dir      string              // absolute, free of symbolic links
	lock     *os.File            // held as long as a server may run
	owner    *syscall.Credential // of the data, who also runs the programs; nil: this process's own user
	binaries binaries
}

func (k *cluster) data() string { return filepath.Join(k.dir, "data") }

// open creates the folder, locks it and decides who owns the data.
func (k *cluster) open() error {
	if k.config.Dir == "" {
		return errors.New("no folder given for the data of Postgres")
	}
	lock, err := LockFolder(k.config.Dir)
	if err != nil {
		return err
	}
	if err := k.settle(); err != nil {
		lock.Close()
		return err
	}
	k.lock = lock
	return nil
}

func (k *cluster) settle() error {
	dir, err := filepath.Abs(k.config.Dir)
	if err != nil {
		return err
	}
	if k.dir, err = filepath.EvalSymlinks(dir); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil
	}
	if k.owner, err = ownerUnderRoot(k.data()); err != nil {
		return err
	}
	info, err := os.Stat(k.dir)
	if err != nil {
		return err
	}
	return os.Chmod(k.dir, info.Mode().Perm()|0o111) // the data inside keeps its own, closed rights
}

// ownerUnderRoot is the unprivileged user who runs the server: the one who owns the data already,
// else postgres, else nobody.
func ownerUnderRoot(data string) (*syscall.Credential, error) {
	if info, err := os.Stat(data); err == nil {
		if stat := info.Sys().(*syscall.Stat_t); stat.Uid != 0 {
			return &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseInt(account.Uid, 10, 64)
		gid, errGID := strconv.ParseInt(account.Gid, 10, 64)
		if err := errors.Join(errUID, errGID); err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		//nolint:gosec // both have 32 bits; macOS prints nobody's as -2
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("there is no user postgres or nobody, and Postgres does not run as root: run as another " +
		"user")
}

// version is the major version that made the data; 0 when there are none yet.
func (k *cluster) version() (int, error) {
	text, err := os.ReadFile(filepath.Join(k.data(), "PG_VERSION"))
	switch {
	case errors.Is(err, fs.ErrPermission):
		return 0, fmt.Errorf("%s belongs to another user: run as that user, or set SHOP_DATA_DIR to another "+
			"folder: %w", k.data(), err)
	case errors.Is(err, fs.ErrNotExist):
		if err := os.Remove(k.data()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("%s holds something else than data of Postgres; start over with --fresh: %w",
				k.data(), err)
		}
		return 0, nil
	case err != nil:
		return 0, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s is damaged (PG_VERSION); start over with --fresh: %w", k.data(), err)
	}
	return major, nil
}

// environment is what Postgres' programs get to see of ours: no secrets, no PG… variables that
// would change their defaults. The fixed locale keeps messages in English, the fixed zone keeps
// times in UTC and spares initdb a search.
func environment() []string {
	env := []string{"LC_ALL=C", "TZ=UTC"}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// command prepares one of Postgres' programs to run as the data's owner; see attributes for death
// and its condition.
func (k *cluster) command(ctx context.Context, death syscall.Signal, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(k.binaries.dir, program), args...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = k.dir, environment(), attributes(k.owner, death)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // with its children
	return cmd
}

// checkReachable finds out whether the data's owner can enter the folder, by having it do so.
func (k *cluster) checkReachable(ctx context.Context) error {
	if k.owner == nil {
		return nil
	}
	cmd := exec.CommandContext(ctx, filepath.Join(k.binaries.dir, "postgres"), "--version")
	cmd.Dir, cmd.Env, cmd.SysProcAttr = k.dir, environment(), &syscall.SysProcAttr{Credential: k.owner}
	err := cmd.Run()
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("under root, Postgres runs as an unprivileged user (uid %d), who cannot enter %s: "+
			"set SHOP_DATA_DIR to a folder that every user can reach, such as /var/lib/onceshop", k.owner.Uid, k.dir)
	}
	return err
}

// initialize makes the data folder. It appears whole or not at all: what an interrupted call leaves
// behind has another name, and the next call removes it.
func (k *cluster) initialize(ctx context.Context) error {
	const prefix = "initdb-"
	leftovers, _ := filepath.Glob(filepath.Join(k.dir, prefix+"*")) // the only error is a malformed pattern
	for _, leftover := range leftovers {
		_ = os.RemoveAll(leftover) // if not now, then at the next start
	}
	work, err := os.MkdirTemp(k.dir, prefix)
	if err != nil {
		return fmt.Errorf("create the data folder of Postgres (SHOP_DATA_DIR): %w", err)
	}
	defer os.RemoveAll(work)

	data := filepath.Join(work, "data")
	args := []string{"-D", data, "-U", "shop", "-E", "UTF8", "--locale=C"}
	if k.config.Volatile {
		args = append(args, "--no-sync")
	}
	if k.config.Password == "" {
		args = append(args, "-A", "trust")
	} else {
		file := filepath.Join(work, "password")
		if err := os.WriteFile(file, []byte(k.config.Password), 0o600); err != nil {
			return fmt.Errorf("hand the password to initdb: %w", err)
		}
		args = append(args, "-A", "scram-sha-256", "--pwfile", file)
	}
	if err := k.handOver(work); err != nil {
		return err
	}

	runtime.LockOSThread() // see attributes
	defer runtime.UnlockOSThread()
	cmd := k.command(ctx, syscall.SIGKILL, "initdb", args...)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("create the database with %s: %w\n%s", cmd.Path, err, out)
	}
	return os.Rename(data, k.data())
}

// handOver gives the folder and its files to the data's owner.
func (k *cluster) handOver(dir string) error {
	if k.owner == nil {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(k.owner.Uid), int(k.owner.Gid))
	})
}

func (k *cluster) pidFile() string { return filepath.Join(k.data(), "postmaster.pid") }

// recorded is what the server noted about itself in the data folder: its process id and its state
// ("starting", "ready", "stopping"). 0 when there is nothing legible.
func (k *cluster) recorded() (pid int, state string) {
	text, err := os.ReadFile(k.pidFile())
	if err != nil {
		return 0, ""
	}
	lines := strings.Split(string(text), "\n")
	pid, err = strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid <= 0 {
		return 0, ""
	}
	if len(lines) >= 8 {
		state = strings.TrimSpace(lines[7])
	}
	return pid, state
}

// stopLeftover stops the server that a killed process may have left on the data, and otherwise
// makes sure that a stale note about one does not keep Postgres from starting.
func (k *cluster) stopLeftover(ctx context.Context) error {
	pid, _ := k.recorded()
	if !k.servedBy(pid) {
		return k.disownNote(pid)
	}
	k.config.Progress("stopping a Postgres that was left behind")
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} {
		_ = syscall.Kill(pid, signal) // if it is not ours to stop, the wait tells
		gone, err := k.awaitGone(ctx, pid)
		if gone || err != nil {
			return err
		}
	}
	return fmt.Errorf("a Postgres (process %d) still runs on %s and does not stop: end it, or set SHOP_DATA_DIR", pid,
		k.data())
}

// awaitGone waits a while until the process no longer serves the data.
func (k *cluster) awaitGone(ctx context.Context, pid int) (bool, error) {
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	patience := time.After(leftoverPatience)
	for k.servedBy(pid) {
		select {
		case <-poll.C:
		case <-patience:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	return true, nil
}

// servedBy tells whether the process is a server on this data, rather than another one that got its
// number since.
func (k *cluster) servedBy(pid int) bool {
	if pid <= 0 {
		return false
	}
	line := commandLine(pid) + " "
	return strings.Contains(line, "postgres ") && strings.Contains(line, " -D "+k.data()+" ")
}

// disownNote changes a stale note: Postgres refuses to start while any process has the number in
// it. Our own number it ignores, being its child's, yet goes on to check the noted shared memory,
// so that a server which is alive after all is never doubled; that is why the note is not removed
// unless it is illegible.
func (k *cluster) disownNote(pid int) error {
	text, err := os.ReadFile(k.pidFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if pid == 0 {
		return os.Remove(k.pidFile())
	}
	_, rest, _ := strings.Cut(string(text), "\n")
	return os.WriteFile(k.pidFile(), []byte(strconv.Itoa(os.Getpid())+"\n"+rest), 0o600)
}
