package psp

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
