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

const leftoverPatience = 10 * time.Second // for a leftover server to stop, before the next signal

// cluster is the folder with the data of one server.
type cluster struct {
	config   Config
	dir      string              // absolute, without symbolic links
	lock     *FolderLock         // held while a server may run
	owner    *syscall.Credential // owns the data and runs the programs; nil: this process's user
	binaries binaries
}

func (k *cluster) data() string { return filepath.Join(k.dir, "data") }

// open creates and locks the folder, and chooses the owner of the data.
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
	return os.Chmod(k.dir, info.Mode().Perm()|0o111) // the data folder inside stays closed
}

// ownerUnderRoot returns the unprivileged user to run the server: the owner of existing data, or
// the user postgres, or the user nobody.
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

// version returns the major version of the data, or 0 if there is no data yet.
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

// environment returns the environment of Postgres' programs. It has no secrets, and no PG…
// variables that change defaults. The fixed locale keeps messages in English. The fixed time zone
// saves initdb a search.
func environment() []string {
	env := []string{"LC_ALL=C", "TZ=UTC"}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// command prepares one of Postgres' programs to run as the data's owner. See attributes for the
// signal death.
func (k *cluster) command(ctx context.Context, death syscall.Signal, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(k.binaries.dir, program), args...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = k.dir, environment(), attributes(k.owner, death)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // with its children
	return cmd
}

// checkReachable checks that the data's owner can enter the folder, by running a program in it.
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

// initialize creates the data folder atomically. An interrupted call leaves a folder with another
// name, which the next call removes.
func (k *cluster) initialize(ctx context.Context) error {
	const prefix = "initdb-"
	leftovers, _ := filepath.Glob(filepath.Join(k.dir, prefix+"*")) // the only error is a malformed pattern
	for _, leftover := range leftovers {
		_ = os.RemoveAll(leftover) // the next start tries again
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

// recorded reads the server's process id and state ("starting", "ready", "stopping") from its pid
// file. The id is 0 if the file is missing or invalid.
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

// stopLeftover stops a server that a killed process has left on the data. If there is none, it
// makes sure that a stale pid file does not keep Postgres from starting.
func (k *cluster) stopLeftover(ctx context.Context) error {
	pid, _ := k.recorded()
	if !k.servedBy(pid) {
		return k.disownPidFile(pid)
	}
	k.config.Progress("stopping a Postgres that was left behind")
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} {
		_ = syscall.Kill(pid, signal) // on failure, awaitGone times out
		gone, err := k.awaitGone(ctx, pid)
		if gone || err != nil {
			return err
		}
	}
	return fmt.Errorf("a Postgres (process %d) still runs on %s and does not stop: end it, or set SHOP_DATA_DIR", pid,
		k.data())
}

// awaitGone waits until the process no longer serves the data. It gives up after leftoverPatience.
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

// servedBy reports whether the process is a server on this data. Another process may have its id by
// now.
func (k *cluster) servedBy(pid int) bool {
	if pid <= 0 {
		return false
	}
	line := commandLine(pid) + " "
	return strings.Contains(line, "postgres ") && strings.Contains(line, " -D "+k.data()+" ")
}

// disownPidFile writes our own process id into a stale pid file. Postgres refuses to start while
// any other process has the id in it, but ignores the id of its parent. It still checks the shared
// memory in the file, so two servers can never run on the same data. A file without that check is
// removed only if it is invalid.
func (k *cluster) disownPidFile(pid int) error {
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
	// The folder is the unprivileged user's, who may have put a link there.
	file, err := os.OpenFile(k.pidFile(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(strconv.Itoa(os.Getpid()) + "\n" + rest)
	return errors.Join(err, file.Close())
}
