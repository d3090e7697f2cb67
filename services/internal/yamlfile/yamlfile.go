// Package yamlfile reads the YAML files that people write, strictly, and says in one line what is wrong where: file, line, key and value.
package yamlfile

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Parse reads a file of one document.
func Parse(path string, data []byte) (*ast.File, error) {
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, located(path, nil, err)
	}
	if len(file.Docs) > 1 {
		return nil, fmt.Errorf("%s:%d: a second document", path, begin(file.Docs[1]))
	}
	return file, nil
}

// begin is the line in which a document begins that is not the first. What follows "..." need not begin with "---".
func begin(doc *ast.DocumentNode) int {
	switch {
	case doc.Start != nil:
		return doc.Start.Position.Line
	case doc.Body != nil:
		return doc.Body.GetToken().Position.Line
	default:
		return 1
	}
}

// Decode puts a file into dst. An unknown key is an error.
func Decode(path string, file *ast.File, dst any, options ...yaml.DecodeOption) error {
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if err := yaml.NodeToValue(doc.Body, dst, append(options, yaml.Strict())...); err != nil {
			return located(path, doc.Body, err)
		}
	}
	return nil
}

// Key is the key of a node, such as sms.providers[0].url.
func Key(node ast.Node) string { return firstLine(strings.TrimPrefix(node.GetPath(), "$.")) }

// located says where an error of the YAML library is, and what is wanted there. The library's own text quotes the lines around it.
func located(path string, body ast.Node, err error) error {
	at, ok := errors.AsType[yaml.Error](err)
	if !ok || at.GetToken() == nil {
		return fmt.Errorf("%s: %s", path, firstLine(err.Error()))
	}
	key, value := keyOf(body, at.GetToken()), cmp.Or(firstLine(at.GetToken().Value), "value")
	switch {
	case key == "":
		key = value
	case key != value && !strings.HasSuffix(key, "."+value): // else it is the key that is wrong
		key += ": " + value
	}
	return fmt.Errorf("%s:%d: %s: %s", path, at.GetToken().Position.Line, key, wanted(err, at.GetMessage()))
}

// keyOf finds the key of what a token stands for.
func keyOf(body ast.Node, at *token.Token) (key string) {
	if body == nil { // the file is no YAML
		return ""
	}
	ast.Walk(visitor(func(node ast.Node) bool {
		if key == "" && node.GetToken() == at {
			key = Key(node)
		}
		return key == ""
	}), body)
	return key
}

// A visitor goes on below a node if it returns true.
type visitor func(ast.Node) bool

func (v visitor) Visit(node ast.Node) ast.Visitor {
	if v(node) {
		return v
	}
	return nil
}

// wanted says in the file's words, not in those of Go, what a value of a wrong type should be.
func wanted(err error, message string) string {
	if _, large := errors.AsType[*yaml.OverflowError](err); large {
		return "out of range"
	}
	if wrong, ok := errors.AsType[*yaml.TypeError](err); ok {
		switch kind := wrong.DstType.Kind(); {
		case kind == reflect.Bool:
			return "want true or false"
		case kind == reflect.String:
			return "want a text"
		case reflect.Int <= kind && kind <= reflect.Uint64:
			return "want a whole number"
		}
	}
	return firstLine(message)
}

func firstLine(s string) string { line, _, _ := strings.Cut(s, "\n"); return line }
