package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/sekisho/sekisho/schemas"
	"github.com/sekisho/sekisho/services/internal/document"
)

// schemaBase is the folder of the schemas' ids, where documents find the schemas that they refer to.
const schemaBase = "https://sekisho.dev/schemas/"

// A described is one of the documents in the folder schemas, and the JSON Schemas in it.
type described struct {
	document.Node
	t        testing.TB
	url      string
	compiler *jsonschema.Compiler
}

// describe reads a document. The objects that it describes are taken to be complete, so that what is not in it is found
// out, although readers are to ignore it.
func describe(t testing.TB, name string) *described {
	t.Helper()
	data, err := fs.ReadFile(schemas.Files, name)
	if err != nil {
		t.Fatal(err)
	}
	d := &described{t: t, url: schemaBase + name, compiler: jsonschema.NewCompiler()}
	if d.Node, err = document.Parse(data); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	d.compiler.AssertFormat()
	d.compiler.AssertContent()
	files, err := fs.Glob(schemas.Files, "*.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, name) {
		data, err := fs.ReadFile(schemas.Files, file)
		if err != nil {
			t.Fatal(err)
		}
		if data, err = yaml.YAMLToJSON(data); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		complete(value)
		if err := d.compiler.AddResource(schemaBase+file, value); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// complete has every object that lists its properties allow no others. What a message says of its headers is added to
// what all messages have, so that it alone is never complete.
func complete(schema any) {
	switch v := schema.(type) {
	case map[string]any:
		_, lists := v["properties"]
		if _, said := v["additionalProperties"]; v["type"] == "object" && lists && !said {
			v["additionalProperties"] = false
		}
		for key, child := range v {
			if of, _ := child.(map[string]any); key != "headers" || of["properties"] == nil {
				complete(child)
			}
		}
	case []any:
		for _, child := range v {
			complete(child)
		}
	}
}

// schema is the JSON Schema at a place, nil if there is none.
func (d *described) schema(n document.Node) *jsonschema.Schema {
	if !n.There() {
		return nil
	}
	s, err := d.compiler.Compile(d.url + "#" + n.At)
	if err != nil {
		d.t.Fatalf("%s: %v", n.At, err)
	}
	return s
}

// example says how the value at a place breaks a schema.
func (d *described) example(schema *jsonschema.Schema, n document.Node) error {
	data, err := n.JSON()
	if err != nil {
		return err
	}
	return fitsJSON(schema, data)
}

// fitsJSON says how a JSON text breaks a schema.
func fitsJSON(schema *jsonschema.Schema, data []byte) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	return schema.Validate(value)
}

// fits says how a header or a parameter breaks a schema. Where it is no string, it is written as in JSON.
func fits(schema *jsonschema.Schema, text string) error {
	if schema.Validate(text) == nil {
		return nil
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		value = text
	}
	return schema.Validate(value)
}
