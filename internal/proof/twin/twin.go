// Package twin tests the idempotency of any HTTP API from outside. It sends twins of requests,
// counts the effects, and compares the answers with the rules of a norm.
package twin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// MaxConcurrency bounds how many requests are sent at the same instant.
const MaxConcurrency = 1000

const (
	// maxDuration bounds a run.
	maxDuration = 10 * time.Minute
	// maxRequests bounds a run, beside the twins.
	maxRequests = 2000
	// defaultPatience is how long a request is repeated until its answer is final.
	defaultPatience = 15 * time.Second
	// stillness is how long the witness is watched before the first request.
	stillness = 500 * time.Millisecond
	// replayPause is the pause before a late replay.
	replayPause = time.Second
)

// Config describes the API.
type Config struct {
	// URL is the address of a node, and Also that of a second one, or "".
	URL, Also    string
	Method, Path string
	// Header is sent with every request. OtherHeader replaces some of it for another customer; nil
	// means that there is no other customer.
	Header, OtherHeader http.Header
	// Body is a template. OtherBody is one with another meaning; "" means Body as another intent.
	Body, OtherBody string
	KeyHeader       string
	// ID finds the id of the effect in an answer.
	ID JSONPath
	// Count returns how many effects a witness holds. Without it, effects are counted by their ids.
	Count func(context.Context) (int, error)
	// Restart kills the service and starts it. It may be nil.
	Restart func(context.Context) error
	// Age makes what the service holds almost a day older. It may be nil.
	Age func(context.Context) error
	// FailHeader makes the service answer with a 5xx before the effect. It may be nil.
	FailHeader http.Header
	// NullMember is an optional member of the body.
	NullMember string
	Rules      Rules
	// Concurrency is how many twins are sent at the same instant.
	Concurrency int
	// Patience is how long a request is repeated until its answer is final. Zero is 15 s.
	Patience time.Duration
	// Progress is called before each question. It may be nil.
	Progress func(question string, n, of int)
}

// WrongUseError is the error of a configuration that no service could be tested with.
type WrongUseError struct{ Reason string }

func (e WrongUseError) Error() string { return e.Reason }

// run is one run of all questions.
type run struct {
	Config
	nodes    []*url.URL
	http     *http.Client
	name     string // distinguishes the keys and values of this run from all others
	intents  atomic.Int64
	requests atomic.Int64
	limit    int64
	counted  int // all effects that questions have counted
	begun    int // what the witness held before the first question
	object   bool
}

// Run asks all questions.
func Run(ctx context.Context, config Config) (Report, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, maxDuration, fmt.Errorf("not finished after %s", maxDuration))
	defer cancel()
	r, err := newRun(config)
	if err != nil {
		return Report{}, err
	}
	report := Report{URL: config.URL, Also: config.Also, Rules: config.Rules.Name, Source: config.Rules.Source,
		Method: r.Method, Path: r.Path, Begun: time.Now().UTC().Truncate(time.Second)}
	if err := r.beginCount(ctx); err != nil {
		return report, err
	}
	if err := r.tryOut(ctx); err != nil {
		return report, err
	}
	for n, q := range questions {
		if r.Progress != nil {
			r.Progress(q.id, n, len(questions))
		}
		line, err := r.ask(ctx, q)
		switch {
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		case r.requests.Load() > r.limit:
			err = errTooMany
		}
		if err != nil {
			return report, fmt.Errorf("%s: %w", q.id, err)
		}
		report.Lines = append(report.Lines, line)
	}
	report.Requests = int(r.requests.Load())
	report.Seconds = time.Since(report.Begun).Round(time.Second).Seconds()
	return report, nil
}

func newRun(config Config) (*run, error) {
	r := &run{Config: config, name: uuid.NewString()[:8]}
	for _, text := range []string{config.URL, config.Also} {
		if text == "" {
			continue
		}
		node, err := url.Parse(text)
		if err != nil || node.Host == "" || node.Scheme != "http" && node.Scheme != "https" {
			return nil, WrongUseError{fmt.Sprintf("%q is no http:// or https:// address", text)}
		}
		r.nodes = append(r.nodes, node)
	}
	if r.Path != "" && r.Path[0] != '/' {
		return nil, WrongUseError{fmt.Sprintf("--path %q must begin with a slash", r.Path)}
	}
	if r.Concurrency < 2 || r.Concurrency > MaxConcurrency {
		return nil, WrongUseError{fmt.Sprintf("--concurrency must be from 2 to %d", MaxConcurrency)}
	}
	if r.Patience == 0 {
		r.Patience = defaultPatience
	}
	if r.NullMember == "" {
		r.NullMember = "twin_probe"
	}
	r.limit = maxRequests + 4*int64(r.Concurrency)
	r.http = r.client()
	_, err := parseJSON([]byte(r.Body))
	r.object = err == nil
	return r, nil
}

// beginCount asks the witness, which must not change by itself.
func (r *run) beginCount(ctx context.Context) error {
	if r.Count == nil {
		return nil
	}
	first, err := r.Count(ctx)
	if err == nil {
		err = pause(ctx, stillness)
	}
	if err == nil {
		r.begun, err = r.Count(ctx)
	}
	if err == nil && first != r.begun {
		return WrongUseError{fmt.Sprintf("--count went from %d to %d while nothing was sent: something else has "+
			"effects there. Count those of the run only, by a text of the body", first, r.begun)}
	}
	return err
}

// tryOut sends the request once as it should be. All questions rest on a service that takes it.
func (r *run) tryOut(ctx context.Context) error {
	i := r.intent()
	a := r.send(ctx, 0, i)
	switch {
	case a.err != nil:
		return fmt.Errorf("%s does not answer: %w", r.URL, a.err)
	case !a.done():
		return WrongUseError{fmt.Sprintf("the service refuses the request, so nothing can be tested: %s %s answered "+
			"%s. Mend --method, --path, --header or --body", r.Method, r.Path, a.withBody())}
	case a.id == "" && r.Count == nil:
		return WrongUseError{fmt.Sprintf("there is no id at %s in the answer %s. Name one with --id, or count effects "+
			"with --count", r.ID, a.withBody())}
	}
	_, err := r.effects(ctx, r.begun, 1, []answer{a})
	return err
}

// effects returns how many effects took place since the witness held before of them. A witness that
// holds fewer than wanted is asked again for a while.
func (r *run) effects(ctx context.Context, before, want int, answers []answer) (int, error) {
	if r.Count == nil {
		ids := map[string]bool{}
		for _, a := range answers {
			if a.done() && a.id != "" {
				ids[a.id] = true
			}
		}
		return len(ids), nil
	}
	deadline := time.Now().Add(r.Patience)
	for enough := false; ; {
		// One that comes too often may come a moment late.
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return 0, err
		}
		now, err := r.Count(ctx)
		if err != nil {
			return 0, err
		}
		if enough || time.Now().After(deadline) {
			r.counted += now - before
			return now - before, nil
		}
		enough = now-before >= want
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

var errTooMany = errors.New("the run has sent as many requests as it may")
