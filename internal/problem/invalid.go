package problem

// InvalidError reports a request that cannot be carried out as it stands, whenever it is sent.
// Field is the JSON path of what is wrong ("lines[0].quantity"), or empty.
type InvalidError struct {
	Field  string
	Reason string
}

func (e InvalidError) Error() string {
	if e.Field == "" {
		return e.Reason
	}
	return e.Field + ": " + e.Reason
}
