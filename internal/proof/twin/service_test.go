package twin_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// mistakes are the switches of a service. Without any it does everything right.
type mistakes struct {
	noGuard, keyBefore, keyAfter, perProcess, globalScope, keeps5xx, binds4xx, comparesBytes, forgets, silent bool
	// Briefly keeps keys for less than a day. TakesAll has an effect for any body and any header.
	briefly, takesAll bool
	// The rest are mistakes by the rules of ACP.
	keyOptional, nullAbsent, listsAreSets, noMark, noRetryAfter, foreignCodes bool
}

// service has two nodes and what they share: the keys and the effects.
type service struct {
	mistakes
	// acp makes it speak the Agentic Commerce Protocol.
	acp   bool
	nodes [2]*httptest.Server

	hits    atomic.Int64
	mu      sync.Mutex
	keys    map[string]*record
	effects int
	working int
	begun   chan struct{} // tells Restart that a request has begun to work
	killed  chan struct{} // closed when the process dies

	// hold makes the first request with a key work until the second one is answered or the process
	// dies, so that no twin comes too late on a busy machine.
	hold     bool
	arrivals map[string]*arrival
}

// record is what is stored under a key. A record without a status is of a request that runs.
type record struct {
	meaning string
	status  int
	body    []byte
}

// arrival counts the requests with a key.
type arrival struct {
	requests int
	second   chan struct{} // closed when there are two
}

// work is how long an effect takes, and held how long at most if it waits for a twin.
const (
	work = 10 * time.Millisecond
	held = 10 * time.Second
)

func start(t *testing.T, m mistakes) *service {
	t.Helper()
	s := &service{mistakes: m, keys: map[string]*record{}, begun: make(chan struct{}, 1), killed: make(chan struct{}),
		arrivals: map[string]*arrival{}}
	for n := range s.nodes {
		s.nodes[n] = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.serve(n, w, r)
		}))
		t.Cleanup(s.nodes[n].Close)
	}
	return s
}

func (s *service) count(context.Context) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.effects, nil
}

// restart kills both nodes, in the middle of a request's work if there is one, and starts them.
func (s *service) restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hold && s.working == 0 {
		select {
		case <-s.begun: // of an earlier request
		default:
		}
		s.mu.Unlock()
		select {
		case <-s.begun:
		case <-ctx.Done():
		}
		s.mu.Lock()
	}
	close(s.killed)
	s.killed = make(chan struct{})
	for name, r := range s.keys {
		if r.status == 0 && !s.keyBefore || s.forgets || s.perProcess {
			delete(s.keys, name) // the transaction, or the memory
		}
	}
	return nil
}

// age makes a day pass.
func (s *service) age(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.briefly {
		clear(s.keys)
	}
	return nil
}

func (s *service) serve(node int, w http.ResponseWriter, r *http.Request) {
	s.hits.Add(1)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	key, ok := s.keyOf(w, r)
	if !ok {
		return
	}
	if s.perProcess {
		key = fmt.Sprint(node, key)
	}
	if !s.globalScope {
		key = r.Header.Get("Authorization") + "\n" + key
	}
	meaning, valid := s.meaningOf(body)
	if s.comparesBytes {
		meaning = string(body)
	}
	valid = valid || s.takesAll
	bad := !valid || r.Header.Get("X-Fail") != "" && !s.takesAll
	status := http.StatusBadRequest
	if valid {
		status = http.StatusInternalServerError
	}
	if bad && (valid || !s.binds4xx) && (!valid || !s.keeps5xx) {
		reply(w, status, "failed")
		return
	}
	s.mu.Lock()
	s.arrive(key)
	if s.answerKnown(w, key, meaning) {
		s.mu.Unlock()
		return
	}
	if bad {
		s.keys[key] = &record{meaning, status, []byte(`{"code":"failed"}`)}
		s.mu.Unlock()
		reply(w, status, "failed")
		return
	}
	s.run(w, key, meaning)
}

// arrive notes a request. The lock is held until the request is answered or has begun to work.
func (s *service) arrive(key string) {
	a, ok := s.arrivals[key]
	if !ok {
		a = &arrival{second: make(chan struct{})}
		s.arrivals[key] = a
	}
	if a.requests++; a.requests == 2 {
		close(a.second)
	}
}

// ask is told each question before it is asked.
func (s *service) ask(question string, _, _ int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	races := []string{"twins", "twins-two-nodes", "in-flight", "client-gone", "restart-during"}
	s.hold = slices.Contains(races, question)
}

// answerKnown answers a request from what is stored under its key.
func (s *service) answerKnown(w http.ResponseWriter, key, meaning string) bool {
	found, ok := s.keys[key]
	switch {
	case !ok || s.noGuard:
		return false
	case found.meaning != meaning && found.status < 400:
		s.refuse(w, http.StatusUnprocessableEntity, "idempotency_key_reused")
	case found.status == 0:
		if !s.noRetryAfter {
			w.Header().Set("Retry-After", "1")
		}
		s.refuse(w, http.StatusConflict, "request_in_progress")
	default:
		if !s.noMark {
			w.Header().Set("Idempotent-Replayed", "true")
		}
		w.WriteHeader(found.status)
		_, _ = w.Write(found.body)
	}
	return true
}

// run has the effect. The lock is held when it begins.
func (s *service) run(w http.ResponseWriter, key, meaning string) {
	done := func() []byte {
		s.effects++
		if s.silent {
			return []byte("{}")
		}
		return fmt.Appendf(nil, `{"id":"e-%d"}`, s.effects)
	}
	var body []byte
	switch {
	case s.keyAfter:
		body = done()
	case !s.noGuard:
		s.keys[key] = &record{meaning: meaning}
	}
	s.working++
	killed, length := s.killed, work
	select {
	case s.begun <- struct{}{}:
	default:
	}
	var second chan struct{}
	if s.hold {
		length, second = held, s.arrivals[key].second
	}
	s.mu.Unlock()
	select {
	case <-killed:
	case <-time.After(length):
	case <-second:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.working--
	if killed != s.killed {
		panic(http.ErrAbortHandler)
	}
	if body == nil {
		body = done()
	}
	s.keys[key] = &record{meaning, http.StatusCreated, body}
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(body)
}

// keyOf returns the request's key, or answers that there is none.
func (s *service) keyOf(w http.ResponseWriter, r *http.Request) (string, bool) {
	values := r.Header.Values("Idempotency-Key")
	if len(values) == 0 || values[0] == "" {
		if s.keyOptional {
			return fmt.Sprint("none ", s.hits.Load()), true
		}
		s.refuse(w, http.StatusBadRequest, "idempotency_key_missing")
		return "", false
	}
	key := strings.Trim(values[0], `"`)
	if len(values) > 1 || len(key) > 255 {
		s.refuse(w, http.StatusBadRequest, "idempotency_key_invalid")
		return "", false
	}
	return key, true
}

// meaningOf is the same for all spellings of an object.
func (s *service) meaningOf(body []byte) (string, bool) {
	var fields map[string]any
	if json.NewDecoder(bytes.NewReader(body)).Decode(&fields) != nil {
		return "", false
	}
	for name, field := range fields {
		list, ok := field.([]any)
		switch {
		case field == nil && (!s.acp || s.nullAbsent):
			delete(fields, name)
		case ok && s.listsAreSets:
			slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
	}
	canonical, err := json.Marshal(fields)
	return fmt.Sprintf("%x", sha256.Sum256(canonical)), err == nil
}

// codesOfACP are the names that ACP has for the shop's codes.
var codesOfACP = map[string]string{"idempotency_key_missing": "idempotency_key_required",
	"idempotency_key_reused": "idempotency_conflict", "request_in_progress": "idempotency_in_flight"}

func (s *service) refuse(w http.ResponseWriter, status int, code string) {
	if name, ok := codesOfACP[code]; ok && s.acp && !s.foreignCodes {
		code = name
	}
	reply(w, status, code)
}

func reply(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"code":%q}`, code)
}
