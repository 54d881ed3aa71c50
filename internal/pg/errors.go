package pg

import (
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"
)

// IsUnavailable reports whether err means that the database cannot do the work now, not that the
// work is wrong. If err wraps ErrCommitUnknown, the work may have taken effect.
func IsUnavailable(err error) bool {
	var connect *pgconn.ConnectError
	var network net.Error // includes context.DeadlineExceeded
	switch {
	case err == nil:
		return false
	case errors.Is(err, ErrCommitUnknown), errors.As(err, &connect), errors.As(err, &network),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, pgconn.ErrConnClosed), errors.Is(err, puddle.ErrClosedPool):
		return true
	}
	return unavailableCode(code(err))
}

const (
	// readOnly is the code of a write on a standby, or on a primary that has become read-only.
	readOnly = "25006"
	// tooMany is the code of a refused connection: the server, the database or the role has as many
	// as it may have.
	tooMany = "53300"
)

// unavailableCode follows appendix A of the Postgres manual: connection exceptions, insufficient
// resources, operator intervention, system errors, and conflicts that remain after the last retry.
func unavailableCode(code string) bool {
	switch code {
	case "40001", "40P01", "55P03", "25P03", readOnly:
		return true
	case "":
		return false
	}
	switch code[:2] {
	case "08", "53", "57", "58":
		return true
	}
	return false
}

func code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// IsLockTimeout reports whether err means that a statement waited too long for a lock.
func IsLockTimeout(err error) bool { return code(err) == "55P03" }

// Violates reports whether err is a violation of this constraint.
func Violates(err error, constraint string) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.ConstraintName == constraint
}
