// Package mailbox is a mail sink: an SMTP server that keeps whatever it is given, a page that
// lists it, and the part of Mailpit's API that checks need, so that either can serve. It
// delivers nothing and asks nobody who they are: it belongs on a loopback address.
package mailbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/google/uuid"
)

const (
	suffix     = ".eml"
	unfinished = ".tmp"
)

// Mailbox keeps messages in the order of their arrival. It is safe for concurrent use.
type Mailbox struct {
	dir  string
	log  *slog.Logger
	smtp *smtp.Server

	closing, cut         context.Context // no new mail; no connection at all
	startClosing, cutAll context.CancelFunc

	mu      sync.RWMutex
	entries []entry // by ID, which is oldest first
}

// entry is what is kept in memory of a message: enough to list it and to search it.
type entry struct {
	summary
	words string // lower-case text for plain search words
	raw   []byte // only without a folder
}

// Open returns the mailbox that is kept in dir, one .eml file per message, with what earlier
// runs have left there. The folder is made if need be and must belong to one Mailbox at a
// time. With dir "" nothing is kept beyond the process.
func Open(dir string, log *slog.Logger) (*Mailbox, error) {
	m := &Mailbox{dir: dir, log: log}
	m.closing, m.startClosing = context.WithCancel(context.Background())
	m.cut, m.cutAll = context.WithCancel(context.Background())
	m.smtp = newServer(m)
	if dir == "" {
		return m, nil
	}
	if err := m.load(); err != nil {
		return nil, fmt.Errorf("mailbox: open folder: %w", err)
	}
	return m, nil
}

// load reads the folder. Names are UUIDv7, so that their order is the order of arrival.
func (m *Mailbox) load() error {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	files, err := os.ReadDir(m.dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(m.dir, f.Name())
		if strings.HasSuffix(f.Name(), unfinished) { // its sender never got a 250
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		id, err := uuid.Parse(strings.TrimSuffix(f.Name(), suffix))
		if err != nil || f.Name() != id.String()+suffix {
			m.log.Warn("mailbox: file is not a message, left alone", "file", f.Name())
			continue
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		m.entries = append(m.entries, newEntry(id, raw))
	}
	return nil
}

func newEntry(id uuid.UUID, raw []byte) entry {
	msg := parse(id.String(), arrival(id), raw)
	return entry{
		summary: msg.summary,
		words: strings.ToLower(strings.Join([]string{
			msg.MessageID, addresses(slices.Concat(msg.To, []*mail.Address{msg.From})), msg.Subject, msg.Text}, "\n")),
	}
}

// arrival is the time inside a UUIDv7, in UTC.
func arrival(id uuid.UUID) time.Time {
	return time.Unix(id.Time().UnixTime()).UTC()
}

// store keeps a message, on disk if there is a folder. Once it returns nil, the message
// outlives a crash of the process or the machine.
func (m *Mailbox) store(raw []byte) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	e := newEntry(id, raw)
	if m.dir == "" {
		e.raw = raw
	} else if err := m.write(id.String()+suffix, raw); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	at, _ := m.find(e.ID) // another connection's later message may be in already
	m.entries = slices.Insert(m.entries, at, e)
	return nil
}

// write makes the file appear whole or not at all.
func (m *Mailbox) write(name string, raw []byte) error {
	f, err := os.CreateTemp(m.dir, "*"+unfinished)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Sync(), f.Close())
	path := filepath.Join(m.dir, name)
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	if err := m.syncDir(); err != nil {
		_ = os.Remove(path) // the sender will hear that it failed, and send it again
		return err
	}
	return nil
}

func (m *Mailbox) syncDir() error {
	d, err := os.Open(m.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// find returns where the message is, or where it would be. The caller holds the lock.
func (m *Mailbox) find(id string) (int, bool) {
	return slices.BinarySearchFunc(m.entries, id, func(e entry, id string) int { return strings.Compare(e.ID, id) })
}

// page returns messages that match, newest first, with the number of all that match and of
// all there are.
func (m *Mailbox) page(match func(*entry) bool, start, limit int) (found []summary, matching, total int) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	found = []summary{}
	for i := len(m.entries) - 1; i >= 0; i-- {
		if e := &m.entries[i]; match(e) {
			if matching >= start && len(found) < limit {
				found = append(found, e.summary)
			}
			matching++
		}
	}
	return found, matching, len(m.entries)
}

// read returns one message and its bytes; ok is false if there is none with this ID.
func (m *Mailbox) read(id string) (msg letter, raw []byte, ok bool, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	at, ok := m.find(id)
	if !ok {
		return letter{}, nil, false, nil
	}
	e := m.entries[at]
	if raw = e.raw; m.dir != "" {
		if raw, err = os.ReadFile(filepath.Join(m.dir, e.ID+suffix)); err != nil {
			return letter{}, nil, true, err
		}
	}
	return parse(e.ID, e.Created, raw), raw, true, nil
}

// remove deletes the messages that match. A message whose file cannot be deleted stays.
func (m *Mailbox) remove(match func(*entry) bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	m.entries = slices.DeleteFunc(m.entries, func(e entry) bool {
		if !match(&e) {
			return false
		}
		if m.dir == "" {
			return true
		}
		err := os.Remove(filepath.Join(m.dir, e.ID+suffix))
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		errs = append(errs, err)
		return err == nil
	})
	if m.dir != "" {
		errs = append(errs, m.syncDir())
	}
	return errors.Join(errs...)
}
