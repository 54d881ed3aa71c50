// Package api is the shop's JSON API. Its contract is openapi.yaml. The server serves it at
// /v1/openapi.yaml, and the tests check every answer against it.
package api

import _ "embed"

// OpenAPI is the OpenAPI 3.1 document of the API, in YAML. Treat it as read-only.
//
//go:embed openapi.yaml
var OpenAPI []byte
