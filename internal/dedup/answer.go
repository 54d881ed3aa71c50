package dedup

import (
	"errors"

	"github.com/google/uuid"
)

// Errors of a request whose key another request used first.
var (
	ErrKeyReused  = errors.New("dedup: the idempotency key belongs to a different request")
	ErrInProgress = errors.New("dedup: the first request with this idempotency key is still running")
	ErrErased     = errors.New("dedup: the data of the request with this idempotency key was erased")
)

// Answer is the response to a request.
type Answer struct {
	// ID is the object that the request created or changed.
	ID     uuid.UUID
	Status int
	// Body is sent byte for byte to every request with the same key. It is empty if it was erased.
	Body []byte
	// Replayed is whether an earlier request with the key was carried out instead of this one.
	Replayed bool
	// StoppedBy is the layer that recognized the key, or "" if this request was carried out.
	StoppedBy Layer
	// Final is whether the answer can no longer change.
	Final bool
}

// Layer is a place where a repeated request can be recognized.
type Layer string

// The layers that answer a repeated request.
const (
	ByKey    Layer = "unique key"
	ByMemory Layer = "memory"
)

// KeyReusedError is ErrKeyReused with the id of the object that the key belongs to.
type KeyReusedError struct{ ID uuid.UUID }

func (KeyReusedError) Error() string { return ErrKeyReused.Error() }
func (KeyReusedError) Unwrap() error { return ErrKeyReused }

// InProgressError is ErrInProgress with the id of the object that the first request is working on.
type InProgressError struct{ ID uuid.UUID }

func (InProgressError) Error() string { return ErrInProgress.Error() }
func (InProgressError) Unwrap() error { return ErrInProgress }
