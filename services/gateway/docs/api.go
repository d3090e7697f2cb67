package docs

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/sekisho/sekisho/services/internal/document"
)

// An api is openapi.yaml as the page shows it.
type api struct {
	Title, Description string
	Groups             []group
	Objects            []object
}

// A group is the operations of one tag.
type group struct {
	Name, Description string
	Server            string
	Operations        []operation
}

type operation struct {
	ID, Method, Path     string
	Summary, Description string
	Secrets              []string // each of them lets a request in
	Open                 bool     // so does none
	Parameters           []field
	Body                 []content
	Answers              []answer
}

type answer struct {
	Status      int
	Text        string // of the status
	Description string
	Headers     []field
	Content     []content
}

// A content is what one media type holds.
type content struct {
	Media    string
	Object   string // the name of the object that it is, or is a list of
	Many     bool
	Fields   []field // of the object
	Examples []example
}

type example struct{ Summary, Text string }

func readAPI(doc document.Node) (api, error) {
	a := api{Title: doc.Get("info", "title").Text(), Description: doc.Get("info", "description").Text()}
	for _, tag := range doc.Get("tags").Each() {
		a.Groups = append(a.Groups, group{Name: tag.Get("name").Text(), Description: tag.Get("description").Text()})
	}
	for path, item := range doc.Get("paths").Each() {
		for method, op := range item.Each() {
			if !op.Get("operationId").There() {
				continue // what the operations of the path share
			}
			tag := op.Get("tags", "0").Text()
			i := slices.IndexFunc(a.Groups, func(g group) bool { return g.Name == tag })
			if i < 0 {
				return a, fmt.Errorf("openapi.yaml: %s: no tag %q", op.At, tag)
			}
			o, err := readOperation(doc, item, op)
			if err != nil {
				return a, fmt.Errorf("openapi.yaml: %s: %w", op.At, err)
			}
			o.Method, o.Path = strings.ToUpper(method), path
			g := &a.Groups[i]
			g.Operations = append(g.Operations, o)
			if g.Server = item.Get("servers", "0", "url").Text(); g.Server == "" {
				g.Server = doc.Get("servers", "0", "url").Text()
			}
		}
	}
	for name, schema := range doc.Get("components", "schemas").Each() {
		if schema.Get("properties").There() {
			a.Objects = append(a.Objects, object{name, schema.Get("description").Text(), fields(schema)})
		}
	}
	return a, nil
}

func readOperation(doc, item, op document.Node) (o operation, err error) {
	o = operation{ID: op.Get("operationId").Text(), Summary: op.Get("summary").Text(), Description: op.Get("description").Text()}
	for _, list := range []document.Node{item.Get("parameters"), op.Get("parameters")} {
		for _, p := range list.Each() {
			o.Parameters = append(o.Parameters, readField(p.Get("name").Text(), p))
		}
	}
	for _, choice := range op.Get("security").Each() {
		none := true
		for name := range choice.Each() {
			none = false
			scheme := doc.Get("components", "securitySchemes", name)
			secret := strings.ToLower(scheme.Get("scheme").Text()) + " token: " + scheme.Get("description").Text()
			if cookie := scheme.Get("name").Text(); cookie != "" {
				secret = "cookie `" + cookie + "`: " + scheme.Get("description").Text()
			}
			o.Secrets = append(o.Secrets, secret)
		}
		o.Open = o.Open || none
	}
	if o.Body, err = readContent(op.Get("requestBody")); err != nil {
		return o, err
	}
	for key, res := range op.Get("responses").Each() {
		status, err := strconv.Atoi(key)
		if err != nil {
			return o, err
		}
		a := answer{Status: status, Text: http.StatusText(status), Description: res.Get("description").Text()}
		for name, header := range res.Get("headers").Each() {
			a.Headers = append(a.Headers, readField(name, header))
		}
		if a.Content, err = readContent(res); err != nil {
			return o, err
		}
		o.Answers = append(o.Answers, a)
	}
	return o, nil
}

// readField reads a parameter or a header.
func readField(name string, n document.Node) field {
	f := describe(n.Get("schema"))
	f.Name, f.In, f.Required = name, n.Get("in").Text(), n.Get("required").True()
	if own := n.Get("description").Text(); own != "" {
		f.Description = own
	}
	return f
}

func readContent(n document.Node) (all []content, err error) {
	for media, m := range n.Get("content").Each() {
		schema := m.Get("schema")
		c := content{Media: media, Object: objectName(schema), Fields: fields(schema)}
		if items := objectName(schema.Get("items")); items != "" {
			c.Object, c.Many = items, true
		}
		if c.Examples, err = readExamples(m); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func readExamples(m document.Node) (all []example, err error) {
	add := func(summary string, value document.Node) {
		text := value.Text() // of what is not JSON
		if text == "" {
			var out []byte
			if out, err = value.JSON(); err != nil {
				return
			}
			text = string(out)
		}
		all = append(all, example{summary, text})
	}
	if value := m.Get("example"); value.There() {
		add("Example", value)
	}
	for _, e := range m.Get("examples").Each() {
		add(e.Get("summary").Text(), e.Get("value"))
	}
	return all, err
}
