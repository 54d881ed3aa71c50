package pg

import (
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"
)

// IsUnavailable reports whether err says that the database could not do the work now, rather
// than that the work was wrong. What was asked may have happened if err wraps ErrCommitUnknown.
func IsUnavailable(err error) bool {
	var connect *pgconn.ConnectError
	var network net.Error // context.DeadlineExceeded is one, too
	switch {
	case err == nil:
		return false
	case errors.Is(err, ErrCommitUnknown), errors.As(err, &connect), errors.As(err, &network),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, pgconn.ErrConnClosed), errors.Is(err, puddle.ErrClosedPool):
		return true
	}
	return unavailableCode(code(err))
}

// unavailableCode follows appendix A of the Postgres manual: connection exceptions, insufficient
// resources, operator intervention, system errors, and conflicts that outlived every retry.
func unavailableCode(code string) bool {
	switch code {
	case "40001", "40P01", "55P03", "25P03", "25006":
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

// Violates reports whether err is the violation of this constraint, and not of another one.
func Violates(err error, constraint string) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.ConstraintName == constraint
}
