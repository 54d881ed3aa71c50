package torture

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// When every fault is over and everything is settled, the database is taken back to an older
// point, as an operator does who has lost the server: to a copy that was made during the run, while
// Postgres was down. Then `shop recover` has to bring back what clients were told since.

// backupAfter is the part of the run after which Postgres' next outage makes the copy.
const backupAfter = 4

// restored is the fault's name.
const restored = "postgres.restored"

// recoverTime bounds one run of the command, beside the time that the restore has lost.
const recoverTime = 2 * time.Minute

// backup is the copy that the database is restored to.
type backup struct {
	dir string
	at  time.Time
}

// backUp copies the database's files once, when the server is down.
func (r *run) backUp() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.backup.dir != "" || r.now() < r.Duration/backupAfter || r.leaves("fault "+restored) {
		return nil
	}
	dir := r.servers.postgres.dir + "-backup"
	copied, err := r.servers.postgres.copyTo(dir)
	if copied {
		r.backup = backup{dir, time.Now()}
	}
	return err
}

// copyTo copies the files of a server that is down, with their owners.
func (p *postgres) copyTo(dir string) (copied bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		return false, nil
	}
	//nolint:gosec,noctx // folders of this run
	if output, err := exec.Command("cp", "-a", p.dir, dir).CombinedOutput(); err != nil {
		return false, fmt.Errorf("copy %s: %w: %s", p.dir, err, output)
	}
	return true, nil
}

// restore takes the database back to its copy, and recovers what has happened since.
func (r *run) restore(ctx context.Context) error {
	r.tell("restoring the database to %s ago", time.Since(r.backup.at).Round(time.Second))
	before, err := r.receipts(ctx)
	if err != nil {
		return err
	}
	r.mails = before
	stood, err := r.readKeys(ctx)
	if err != nil {
		return err
	}
	for _, n := range r.nodes {
		defer n.hold()()
	}
	r.servers.postgres.stop() //nolint:contextcheck // it has its own deadline
	if err := os.RemoveAll(r.servers.postgres.dir); err != nil {
		return fmt.Errorf("lose the database: %w", err)
	}
	if err := os.Rename(r.backup.dir, r.servers.postgres.dir); err != nil {
		return fmt.Errorf("restore the database: %w", err)
	}
	if err := r.servers.postgres.up(ctx); err != nil {
		return err
	}
	if err := r.refused(ctx); err != nil {
		return err
	}
	if err := r.recoverDatabase(ctx); err != nil {
		return err
	}
	if err := r.forgiveLost(ctx, stood); err != nil {
		return err
	}
	return r.decideReceipts(ctx, before)
}

// refused starts a node on the restored database, which it must refuse.
func (r *run) refused(ctx context.Context) error {
	state, err := r.runCommand(ctx, "refused", healing, "serve")
	if err == nil && state.ExitCode() != 1 {
		r.fail("restore", fmt.Sprintf("a node on the restored database: %s; see refused.log", state))
	}
	return err
}

func (r *run) recoverDatabase(ctx context.Context) error {
	state, err := r.runCommand(ctx, "recover", recoverTime+time.Since(r.backup.at), "recover", "--since",
		r.backup.at.UTC().Format(time.RFC3339))
	if err != nil {
		return err
	}
	if !state.Success() {
		r.fail("restore", fmt.Sprintf("shop recover: %s; see recover.log", state))
	}
	log, err := os.ReadFile(filepath.Join(r.dir, "recover.log"))
	_, report, _ := strings.Cut(string(log), "\nevents ") // its last lines, below one line for each event
	r.tell("recovered: events %s", strings.TrimSpace(report))
	return err
}

// runCommand runs a command with a node's settings, and kills it when it takes too long.
func (r *run) runCommand(ctx context.Context, name string, patience time.Duration, args ...string) (*os.ProcessState,
	error) {
	p, err := r.startProcess(name, r.nodes[0].env, r.Program, args...)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.exited:
	case <-time.After(patience):
		p.kill()
	case <-ctx.Done():
		p.kill()
		return nil, ctx.Err()
	}
	return p.cmd.ProcessState, nil
}

// forgiveLost forgets the answers of before the restore that a recovery does not bring back:
// deliveries and refunds that failed, which are to be repeated. Refunds come back from the
// provider's records, with another time and without their key and its meaning. If a key did not
// stand before the restore, the shop has lost its answer.
func (r *run) forgiveLost(ctx context.Context, stood map[scope]keyRow) error {
	held, err := r.readKeys(ctx)
	if err != nil {
		return err
	}
	for _, asked := range r.world.intents {
		s := scope{asked.customer.id, asked.op, asked.key}
		_, stands := held[s]
		if _, stoodBefore := stood[s]; stands || !stoodBefore {
			continue
		}
		switch asked.op {
		case delivering:
			asked.calls = nil
		case refunding:
			asked.rebuilt = true
			asked.calls = slices.DeleteFunc(asked.calls, func(c call) bool { return c.status != http.StatusCreated })
		case placing, charging, canceling:
		}
	}
	return nil
}

// decideReceipts does what an operator does who has the mail server's log: a dead letter whose mail
// is there was sent, and the others are sent now.
func (r *run) decideReceipts(ctx context.Context, before map[string][]time.Time) error {
	var sent []string
	for id := range before {
		sent = append(sent, orderOf(id))
	}
	_, err := r.servers.postgres.direct().Exec(ctx, `UPDATE receipts SET dead_at = NULL, due_at = now(),
		sent_at = CASE WHEN order_id::text = ANY($1) THEN now() END WHERE dead_at IS NOT NULL`, sent)
	if err != nil {
		return fmt.Errorf("decide about the receipts: %w", err)
	}
	return nil
}

// checkMails expects the mails of before the restore, and one for each receipt that was sent since.
func (r *run) checkMails(ctx context.Context) error {
	after, err := r.receipts(ctx)
	if err != nil {
		return err
	}
	for id, copies := range after {
		if want := max(1, len(r.mails[id])); len(copies) != want {
			r.violate("I11", orderOf(id), fmt.Sprintf("%d mails, before the restore there were %d", len(copies),
				len(r.mails[id])))
		}
	}
	return nil
}
