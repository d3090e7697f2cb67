// Package document reads YAML and JSON documents whose parts refer to each other by "$ref", such as OpenAPI and AsyncAPI
// documents and JSON Schemas.
package document

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

// A Node is one place in a document. A place that is not there is a Node too, without a value.
type Node struct {
	At string // JSON Pointer (RFC 6901)

	root  any
	value any // objects are yaml.MapSlice, lists are []any
}

// Parse reads a document, JSON being YAML too. The order of members is kept.
func Parse(data []byte) (Node, error) {
	var value any
	if err := yaml.UnmarshalWithOptions(data, &value, yaml.UseOrderedMap()); err != nil {
		return Node{}, fmt.Errorf("parse document: %w", err)
	}
	return Node{root: value, value: value}, nil
}

// Get goes down by keys, or by indices of lists, and follows references to other places of the document on its way. The
// last place is returned as it stands, even if it is a reference.
func (n Node) Get(keys ...string) Node {
	for _, key := range keys {
		n = n.Target().child(key)
	}
	return n
}

var pointer, unpointer = strings.NewReplacer("~", "~0", "/", "~1"), strings.NewReplacer("~1", "/", "~0", "~")

func (n Node) child(key string) Node {
	child := Node{At: n.At + "/" + pointer.Replace(key), root: n.root}
	switch v := n.value.(type) {
	case yaml.MapSlice:
		for _, item := range v {
			if item.Key == key {
				child.value = item.Value
			}
		}
	case []any:
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(v) {
			child.value = v[i]
		}
	}
	return child
}

// Own is a member of the node itself, even if the node is a reference: "$ref", or what stands beside it.
func (n Node) Own(key string) Node { return n.child(key) }

// Target is the place that the node refers to; the node itself if it refers to none, or to another document.
func (n Node) Target() Node {
	// No chain of references is long, and one that goes in a circle must not hang the reader.
	for range 8 {
		path, ok := strings.CutPrefix(n.child("$ref").Text(), "#/")
		if !ok {
			return n
		}
		to := Node{root: n.root, value: n.root}
		for key := range strings.SplitSeq(path, "/") {
			to = to.child(unpointer.Replace(key))
		}
		n = to
	}
	return Node{At: n.At, root: n.root}
}

// Each goes through the members of an object, or the elements of a list, in their order.
func (n Node) Each() iter.Seq2[string, Node] {
	return func(yield func(string, Node) bool) {
		n := n.Target()
		switch v := n.value.(type) {
		case yaml.MapSlice:
			for _, item := range v {
				if key := fmt.Sprint(item.Key); !yield(key, n.child(key)) {
					return
				}
			}
		case []any:
			for i := range v {
				if key := strconv.Itoa(i); !yield(key, n.child(key)) {
					return
				}
			}
		}
	}
}

// There reports whether there is something.
func (n Node) There() bool { return n.value != nil }

// Text is the text of a string, and empty for anything else.
func (n Node) Text() string {
	s, _ := n.value.(string)
	return s
}

// Texts are the strings of a list.
func (n Node) Texts() (all []string) {
	for _, child := range n.Each() {
		all = append(all, child.Text())
	}
	return all
}

// True reports whether the node is the boolean true.
func (n Node) True() bool { return n.value == true }

// JSON is the node as indented JSON.
func (n Node) JSON() ([]byte, error) {
	text, err := yaml.MarshalWithOptions(n.value, yaml.JSON())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.At, err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, bytes.TrimSpace(text), "", "  "); err != nil {
		return nil, fmt.Errorf("%s: %w", n.At, err)
	}
	return out.Bytes(), nil
}
