package pg

import (
	"errors"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// rawUUIDs makes pgx encode and decode ids as 16 bytes. Otherwise pgx tries many types and falls
// back to text, which takes longer than planning the SQL of a batch of orders.
func rawUUIDs(types *pgtype.Map) {
	types.TryWrapEncodePlanFuncs = slices.Insert(types.TryWrapEncodePlanFuncs, 0,
		func(value any) (pgtype.WrappedEncodePlanNextSetter, any, bool) {
			id, ok := value.(uuid.UUID)
			return &encodeUUID{}, rawUUID(id), ok
		})
	types.TryWrapScanPlanFuncs = slices.Insert(types.TryWrapScanPlanFuncs, 0,
		func(target any) (pgtype.WrappedScanPlanNextSetter, any, bool) {
			id, ok := target.(*uuid.UUID)
			return &scanUUID{}, (*rawUUID)(id), ok
		})
}

type rawUUID uuid.UUID

func (u rawUUID) UUIDValue() (pgtype.UUID, error) { return pgtype.UUID{Bytes: u, Valid: true}, nil }

func (u *rawUUID) ScanUUID(v pgtype.UUID) error {
	if !v.Valid {
		return errors.New("pg: NULL for an id that must not be NULL")
	}
	*u = v.Bytes
	return nil
}

type encodeUUID struct{ next pgtype.EncodePlan }

func (p *encodeUUID) SetNext(next pgtype.EncodePlan) { p.next = next }
func (p *encodeUUID) Encode(value any, buf []byte) ([]byte, error) {
	return p.next.Encode(rawUUID(value.(uuid.UUID)), buf)
}

type scanUUID struct{ next pgtype.ScanPlan }

func (p *scanUUID) SetNext(next pgtype.ScanPlan) { p.next = next }
func (p *scanUUID) Scan(src []byte, target any) error {
	return p.next.Scan(src, (*rawUUID)(target.(*uuid.UUID)))
}
