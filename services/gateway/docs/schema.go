package docs

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sekisho/sekisho/services/internal/document"
)

// A field is a row of a table: a member of an object, a parameter or a header.
type field struct {
	Name, In    string
	Type        string
	Values      []string // what it may be, if that is a list
	Object      string   // name of the object that it is, or is a list of
	Required    bool
	Default     string
	Description string
}

// An object is a schema with a name of its own.
type object struct {
	Name, Description string
	Fields            []field
}

// fields are the members of an object.
func fields(schema document.Node) (all []field) {
	required := schema.Get("required").Texts()
	for name, property := range schema.Get("properties").Each() {
		f := describe(property)
		f.Name, f.Required = name, slices.Contains(required, name)
		all = append(all, f)
	}
	return all
}

// describe says in words what a schema allows.
func describe(schema document.Node) field {
	f := field{Description: schema.Own("description").Text(), Default: literal(schema.Own("default"))}
	if f.Description == "" {
		f.Description = schema.Get("description").Text()
	}
	if f.Default == "" {
		f.Default = literal(schema.Get("default"))
	}
	if f.Object = objectName(schema); f.Object != "" {
		f.Type = "object"
		return f
	}
	for _, value := range schema.Get("enum").Each() {
		f.Values = append(f.Values, literal(value))
	}
	if value := schema.Get("const"); value.There() {
		f.Values = []string{literal(value)}
	}
	switch f.Type = schema.Get("type").Text(); f.Type {
	case "array":
		items := describe(schema.Get("items"))
		f.Type, f.Values, f.Object = "list of "+items.Type, items.Values, items.Object
	case "string":
		f.Type = text(schema)
	case "integer", "number":
		f.Type += between(schema.Get("minimum"), schema.Get("maximum"), "")
		if least := schema.Get("exclusiveMinimum"); least.There() {
			f.Type = fmt.Sprintf("number, more than %s, at most %s", literal(least), literal(schema.Get("maximum")))
		}
	case "":
		f.Type = "string" // the values say so
	}
	return f
}

// text describes a string.
func text(schema document.Node) string {
	switch {
	case schema.Get("format").Text() == "date-time":
		return "instant"
	case schema.Get("format").Text() == "uuid":
		return "UUID"
	case schema.Get("contentEncoding").There():
		return schema.Get("contentEncoding").Text()
	default:
		return "string" + between(schema.Get("minLength"), schema.Get("maxLength"), " characters")
	}
}

func between(least, most document.Node, unit string) string {
	switch {
	case least.There() && most.There() && literal(least) == literal(most):
		return fmt.Sprintf(", %s%s", literal(least), unit)
	case least.There() && most.There():
		return fmt.Sprintf(", %s to %s%s", literal(least), literal(most), unit)
	case most.There():
		return fmt.Sprintf(", at most %s%s", literal(most), unit)
	case least.There():
		return fmt.Sprintf(", at least %s%s", literal(least), unit)
	default:
		return ""
	}
}

// literal is a value as one would write it.
func literal(n document.Node) string {
	if !n.There() {
		return ""
	}
	if s := n.Text(); s != "" {
		return s
	}
	out, err := n.JSON()
	if err != nil {
		return ""
	}
	return string(out)
}

// objectName is the name of the object to which a schema refers: of one in the same document, or in a file of its own.
func objectName(schema document.Node) string {
	ref := schema.Own("$ref").Text()
	if name, ok := strings.CutSuffix(ref, ".schema.json"); ok {
		return strings.TrimPrefix(name, "./")
	}
	if !schema.Get("properties").There() {
		return ""
	}
	return ref[strings.LastIndexByte(ref, '/')+1:]
}
