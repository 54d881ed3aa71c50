package pg

import (
	"errors"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// rawUUIDs lets pgx write and read ids as the 16 bytes that they are. Otherwise it tries them as
// many types and takes them for text in the end, which costs a batch of orders more time than its
// SQL takes to plan.
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
		return errors.New("pg: NULL for an id that must be there")
	}
	*u = v.Bytes
	return nil
}

type encodeUUID struct{ next pgtype.EncodePlan }

func (p *encodeUUID) SetNext(next pgtype.EncodePlan) { p.next = next }
func (p *encodeUUID) Encode(value any, buf []byte) ([]byte, error) {
	return p.next.Encode(rawUUID(value.(uuid.UUID)), buf) //nolint:forcetypeassert // planned for it
}

type scanUUID struct{ next pgtype.ScanPlan }

func (p *scanUUID) SetNext(next pgtype.ScanPlan) { p.next = next }
func (p *scanUUID) Scan(src []byte, target any) error {
	return p.next.Scan(src, (*rawUUID)(target.(*uuid.UUID))) //nolint:forcetypeassert // planned for it
}
