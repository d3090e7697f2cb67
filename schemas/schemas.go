// Package schemas holds what Sekisho says of itself in standard forms, as files that a program can carry along: openapi.yaml
// (HTTP), asyncapi.yaml (the bus), and a JSON Schema and an example of each event's data.
//
// It is a module of its own, since go:embed reaches no file outside of its module and every file is to exist once.
package schemas

import "embed"

// Files is this folder.
//
//go:embed *.yaml *.schema.json examples/*.json
var Files embed.FS
