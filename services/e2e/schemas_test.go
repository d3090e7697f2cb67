package e2e

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/sekisho/sekisho/events"
)

const schemaDir = "../../schemas"

func schemaOf(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.AssertContent()
	files, err := filepath.Glob(filepath.Join(schemaDir, "*.schema.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("schemas: %v, %v", files, err)
	}
	for _, file := range files {
		doc := readJSON(t, file)
		if err := c.AddResource(doc.(map[string]any)["$id"].(string), doc); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := c.Compile("https://sekisho.dev/schemas/" + name + ".schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func readJSON(t *testing.T, file string) any {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	doc, err := jsonschema.UnmarshalJSON(f)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return doc
}

// decode is how a consumer reads data: JSON into the step's type, then its own check.
func decode(step events.Step, data []byte) (events.Data, error) {
	d := events.Steps[step].Data()
	if err := json.Unmarshal(data, d); err != nil {
		return d, err
	}
	return d, d.Validate()
}

// Each step's Go type, JSON Schema and golden examples say the same: an example is valid for both and comes through the type
// unchanged, fields have the same names, and what one refuses the other refuses too. answered-push.json is a second example of answered,
// with the fields that the first can not have.
func TestSchemas(t *testing.T) {
	for step := range events.Steps {
		t.Run(string(step), func(t *testing.T) {
			schema := schemaOf(t, string(step))
			files, err := filepath.Glob(filepath.Join(schemaDir, "examples", string(step)+"*.json"))
			if err != nil || len(files) == 0 {
				t.Fatalf("examples: %v, %v", files, err)
			}
			met := make(map[string]any)
			for _, file := range files {
				example := readJSON(t, file)
				checkExample(t, step, schema, example)
				maps.Copy(met, example.(map[string]any))
				refuseAlike(t, step, schema, example.(map[string]any))
			}
			fieldsAgree(t, reflect.TypeOf(events.Steps[step].Data()).Elem(), readJSON(t, filepath.Join(schemaDir, string(step)+".schema.json")).(map[string]any), met)
		})
	}
}

func checkExample(t *testing.T, step events.Step, schema *jsonschema.Schema, example any) {
	t.Helper()
	if err := schema.Validate(example); err != nil {
		t.Error(err)
	}
	golden, err := json.Marshal(example)
	if err != nil {
		t.Fatal(err)
	}
	data, err := decode(step, golden)
	if err != nil {
		t.Fatal(err)
	}
	if step == events.StepClosed {
		data.(*events.Closed).Reason = "attempts" // the one field that the example of a grant can not have
		example.(map[string]any)["reason"] = "attempts"
	}
	written, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := jsonschema.UnmarshalJSON(bytes.NewReader(written))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again, example) {
		t.Errorf("through the Go type the example becomes\n%s", written)
	}
}

// fieldsAgree holds the fields of a struct against the properties of a schema and the members of the examples.
func fieldsAgree(t *testing.T, typ reflect.Type, schema, examples map[string]any) {
	t.Helper()
	properties, _ := schema["properties"].(map[string]any)
	var names []string
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
		if properties[name] == nil {
			t.Errorf("the schema lacks %q", name)
		}
		if _, ok := examples[name]; !ok {
			t.Errorf("the examples lack %q", name)
		}
	}
	for name := range properties {
		if !slices.Contains(names, name) {
			t.Errorf("the Go type lacks %q", name)
		}
	}
}

// refuseAlike spoils each member of the example in several ways: the schema and the Go type must agree on each.
func refuseAlike(t *testing.T, step events.Step, schema *jsonschema.Schema, example map[string]any) {
	t.Helper()
	try := func(what string, spoil func(map[string]any)) {
		t.Helper()
		copied, err := json.Marshal(example)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(copied))
		if err != nil {
			t.Fatal(err)
		}
		spoil(doc.(map[string]any))
		data, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		bySchema := schema.Validate(doc)
		_, byType := decode(step, data)
		if (bySchema == nil) != (byType == nil) {
			t.Errorf("%s: the schema says %v, the Go type says %v", what, bySchema, byType)
		}
	}
	long := strings.Repeat("x", 200)
	for name, value := range example {
		try(name+" absent", func(m map[string]any) { delete(m, name) })
		try(name+" of another type", func(m map[string]any) { m[name] = []any{[]any{}} })
		switch value.(type) {
		case string:
			try(name+" too long", func(m map[string]any) { m[name] = long })
		case json.Number:
			try(name+" too large", func(m map[string]any) { m[name] = json.Number("1000000") })
			try(name+" too small", func(m map[string]any) { m[name] = json.Number("-1") })
		case []any:
			try(name+" too long", func(m map[string]any) { m[name] = slices.Repeat([]any{"sms"}, 99) })
			try(name+" with an unknown value", func(m map[string]any) { m[name] = []any{long} })
		case map[string]any:
			for inner := range value.(map[string]any) {
				try(name+"."+inner+" absent", func(m map[string]any) { delete(m[name].(map[string]any), inner) })
			}
		}
	}
}
