package pg

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// FirstID returns the smallest UUID of version 7 with the time t. All ids of rows are of that
// version, so those made since then by a node with the same clock are not below it.
func FirstID(t time.Time) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[:8], uint64(t.UnixMilli())<<16)
	return id
}

// DerivedID returns the id of a row that follows from another row and the parts, such as an
// idempotency key. It is a UUID of version 7 with the time of that row's id, and a hash in place of
// the random bits. After a restore to an older point, the same request leads to the same id.
func DerivedID(from uuid.UUID, parts ...string) (id uuid.UUID) {
	hash := sha256.New()
	hash.Write(from[:])
	for _, part := range parts {
		fmt.Fprintf(hash, "%d:%s", len(part), part)
	}
	copy(id[:], hash.Sum(nil))
	copy(id[:6], from[:6])
	id[6] = id[6]&0x0f | 0x70 // the version
	id[8] = id[8]&0x3f | 0x80 // the variant
	return id
}
