package psp

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// table holds the objects of one kind, oldest first. Its zero value is empty.
type table[T any] struct {
	rows []*T
	byID map[string]*T
}

// put stores v under id and returns what was stored there before: the zero value for a new id.
func (t *table[T]) put(id string, v T) (before T) {
	if row := t.byID[id]; row != nil {
		before, *row = *row, v
		return before
	}
	if t.byID == nil {
		t.byID = map[string]*T{}
	}
	t.rows = append(t.rows, &v)
	t.byID[id] = &v
	return before
}

func (t *table[T]) get(id string) (v T, ok bool) {
	if row := t.byID[id]; row != nil {
		return *row, true
	}
	return v, false
}

// find returns the matching objects of a table of l, oldest first.
func find[T any](l *ledger, t *table[T], match func(T) bool) []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []T
	for _, row := range t.rows {
		if match(*row) {
			found = append(found, *row)
		}
	}
	return found
}

func all[T any](T) bool { return true }

// sinceOf returns the time of ?since=, or the zero time.
func sinceOf(q url.Values) (since time.Time, err error) {
	if !q.Has("since") {
		return since, nil
	}
	if since, err = time.Parse(time.RFC3339Nano, q.Get("since")); err != nil {
		return since, newProblem(http.StatusBadRequest, "invalid_request", "since must be a time of RFC 3339")
	}
	return since, nil
}

// page returns up to ?limit= objects after the one whose id is ?after=. All are on one page by
// default.
func page[T any](q url.Values, found []T, id func(T) string) ([]T, error) {
	if q.Has("after") {
		at := slices.IndexFunc(found, func(v T) bool { return id(v) == q.Get("after") })
		if at < 0 {
			return nil, newProblem(http.StatusBadRequest, "invalid_request", "after must be the id of a listed object")
		}
		found = found[at+1:]
	}
	if !q.Has("limit") {
		return found, nil
	}
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil || limit < 1 {
		return nil, newProblem(http.StatusBadRequest, "invalid_request", "limit must be a whole number above 0")
	}
	return found[:min(limit, len(found))], nil
}
