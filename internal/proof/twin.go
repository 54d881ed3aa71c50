package proof

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/onceshop/onceshop/internal/app"
	"github.com/onceshop/onceshop/internal/proof/twin"
)

// commandTimeout bounds a command that counts effects or restarts the service.
const commandTimeout = time.Minute

// TwinOptions are the flags of shop twin.
type TwinOptions struct {
	URL, Also, Method, Path, KeyHeader, ID, Rules string
	Header, OtherHeader, FailHeader               []string
	Body, OtherBody                               string // files
	Count, Restart, Age                           string // commands
	Concurrency                                   int
	JSON                                          bool
}

// given reports whether the options describe a request. If none does, the service is taken for this
// shop's demo.
func (o TwinOptions) given() bool {
	return o.Body != "" || o.Path != "" || len(o.Header) > 0 || len(o.OtherHeader) > 0 || o.Count != ""
}

// Twin tests the idempotency of an HTTP API and writes the report on out. Progress is shown if it
// is a terminal. It is an error if an effect happened twice or got lost, or if an answer was
// another customer's.
func Twin(ctx context.Context, options TwinOptions, out, progress io.Writer) error {
	config, err := options.config()
	if err != nil {
		return app.UsageError{Err: err}
	}
	done := func(context.Context) error { return nil }
	if !options.given() {
		demo, cancel, ok := twin.ForDemo(ctx, config, strings.ToLower(rand.Text()[:8]))
		if !ok {
			return app.UsageError{Err: fmt.Errorf("%s is not the demo of this shop: describe the request with --path, "+
				"--header and --body", options.URL)}
		}
		config, done = demo, cancel
	}
	name := cmp.Or(options.Rules, map[bool]string{true: "ietf", false: "shop"}[options.given()])
	var ok bool
	if config.Rules, ok = twin.FindRules(name); !ok {
		return app.UsageError{Err: fmt.Errorf("--as %s: there are ietf, stripe, acp and shop", name)}
	}
	wipe := showProgress(&config, progress)
	report, err := twin.Run(ctx, config)
	wipe()
	// The orders of a demo are canceled even after Ctrl-C.
	tidy, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
	defer cancel()
	if undone := done(tidy); undone != nil {
		fmt.Fprintf(progress, "The orders of this run stay open: %v\n", undone)
	}
	if wrong, ok := errors.AsType[twin.WrongUseError](err); ok {
		return app.UsageError{Err: wrong}
	}
	if err != nil {
		return err
	}
	write := report.WriteTable
	if options.JSON {
		write = report.WriteJSON
	}
	if err := write(out); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if harm := report.Harm(); harm > 0 {
		return fmt.Errorf("%d of %d questions show harm: an effect that happened twice or got lost, or an answer that "+
			"was another customer's", harm, len(report.Lines))
	}
	return nil
}

func (o TwinOptions) config() (twin.Config, error) {
	config := twin.Config{URL: o.URL, Also: o.Also, Method: strings.ToUpper(o.Method), Path: o.Path,
		KeyHeader: o.KeyHeader, Concurrency: o.Concurrency}
	var err error
	if config.ID, err = twin.ParseJSONPath(o.ID); err != nil {
		return config, fmt.Errorf("--id: %w", err)
	}
	for _, h := range []struct {
		flag  string
		lines []string
		into  *http.Header
	}{{"--header", o.Header, &config.Header}, {"--other-header", o.OtherHeader, &config.OtherHeader},
		{"--fail-header", o.FailHeader, &config.FailHeader}} {
		if *h.into, err = headerOf(h.lines); err != nil {
			return config, fmt.Errorf("%s: %w", h.flag, err)
		}
	}
	for _, f := range []struct {
		flag, path string
		into       *string
	}{{"--body", o.Body, &config.Body}, {"--other-body", o.OtherBody, &config.OtherBody}} {
		if f.path == "" {
			continue
		}
		text, err := os.ReadFile(f.path)
		if err != nil {
			return config, fmt.Errorf("%s: %w", f.flag, err)
		}
		*f.into = string(text)
	}
	if o.Count != "" {
		config.Count = func(ctx context.Context) (int, error) { return countWith(ctx, o.Count) }
	}
	config.Restart, config.Age = doing("--restart", o.Restart), doing("--age", o.Age)
	return config, nil
}

// doing returns a function that runs a command of the user's, or nil if there is none.
func doing(flag, command string) func(context.Context) error {
	if command == "" {
		return nil
	}
	return func(ctx context.Context) error {
		_, err := runCommand(ctx, flag, command)
		return err
	}
}

// headerOf reads lines such as "Authorization: Bearer abc". It returns nil for none.
func headerOf(lines []string) (http.Header, error) {
	var header http.Header
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(name) != name || name == "" || strings.ContainsAny(line, "\r\n") {
			return nil, fmt.Errorf("%q is not a header, such as 'Authorization: Bearer abc'", line)
		}
		if header == nil {
			header = http.Header{}
		}
		header.Add(name, strings.TrimSpace(value))
	}
	return header, nil
}

func countWith(ctx context.Context, command string) (int, error) {
	text, err := runCommand(ctx, "--count", command)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return 0, fmt.Errorf("--count printed %.100q, which is no number", text)
	}
	return n, nil
}

// runCommand runs a command of the user's in a shell and returns its output. A process that it
// leaves in the background may go on.
func runCommand(ctx context.Context, flag, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	var out, complaint strings.Builder
	cmd := exec.CommandContext(ctx, "sh", "-c", command) //nolint:gosec // it is the user's own
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &complaint, time.Second
	err := cmd.Run()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return "", fmt.Errorf("%s %q: %w %s", flag, command, err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// showProgress makes the run name its question on a terminal. The function that it returns wipes
// the line.
func showProgress(config *twin.Config, progress io.Writer) (wipe func()) {
	file, ok := progress.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return func() {}
	}
	const wiped = "\r\x1b[K"
	config.Progress = func(question string, n, of int) {
		fmt.Fprintf(progress, "%s%d/%d %s", wiped, n+1, of, question)
	}
	return func() { fmt.Fprint(progress, wiped) }
}
