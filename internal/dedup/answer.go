package dedup

import (
	"errors"

	"github.com/google/uuid"
)

// Errors of a request whose key another request used first.
var (
	ErrKeyReused  = errors.New("dedup: the idempotency key belongs to a different request")
	ErrInProgress = errors.New("dedup: the first request with this idempotency key is still running")
)

// Answer is what a client is told, once made and then kept: ID names the object that the request
// created or changed, Body is sent byte for byte.
type Answer struct {
	ID     uuid.UUID
	Status int
	Body   []byte
	// Replayed says that an earlier request made the answer.
	Replayed bool
	// StoppedBy is what kept this request from being carried out, "" for the one that was.
	StoppedBy Layer
	// Final says that the answer will never change; other answers describe the moment.
	Final bool
}

// Layer names what recognizes a request's twin.
type Layer string

// The layers that answer a request in place of carrying it out.
const (
	ByKey    Layer = "unique key"
	ByMemory Layer = "memory"
)

// KeyReusedError is ErrKeyReused, with the object that the key stands for.
type KeyReusedError struct{ ID uuid.UUID }

func (KeyReusedError) Error() string { return ErrKeyReused.Error() }
func (KeyReusedError) Unwrap() error { return ErrKeyReused }

// InProgressError is ErrInProgress with the id of the object that the first request is working on.
type InProgressError struct{ ID uuid.UUID }

func (InProgressError) Error() string { return ErrInProgress.Error() }
func (InProgressError) Unwrap() error { return ErrInProgress }

// Replay answers a request with the stored answer of its key, or with KeyReusedError.
func Replay(stored []byte, asked Fingerprint, answer Answer) (Answer, error) {
	row := Row{ID: answer.ID, Fingerprint: stored, Answer: answer}
	row.Answer.Status = max(row.Answer.Status, 1)
	replayed, err := Request{Fingerprint: asked}.replay(row, nil)
	if err == nil {
		replayed.Status = answer.Status
	}
	return replayed, err
}
