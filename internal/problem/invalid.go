package problem

// InvalidError reports a request that is invalid and fails again when repeated. Field is the JSON
// path of the invalid value ("lines[0].quantity"), or empty.
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
