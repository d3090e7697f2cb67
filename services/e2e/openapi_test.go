package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/sekisho/sekisho/services/internal/document"
)

// A conformity is a transport that holds each request and each answer of a test against schemas/openapi.yaml. Answers
// must be as described. Requests must be so only if they were accepted, since tests also send what is wrong.
type conformity struct {
	s          *system
	operations map[string]operation // by pattern: "GET public/v1/session"
	mux        *http.ServeMux       // of the patterns
	unknown    map[int]answer       // to what is not in the document
	login      *jsonschema.Schema

	met *met
}

// A met is the answers that tests have met, by pattern and status: "GET public/v1/session 401". Several systems may share it.
type met struct {
	sync.Mutex
	answers map[string]bool
}

type operation struct {
	parameters []field
	body       map[string]*jsonschema.Schema // by media type
	secrets    []field                       // each of them lets a request in; none: all are let in
	answers    map[int]answer                // by status
}

// A field is a parameter, a header or a cookie.
type field struct {
	in, name string
	required bool
	schema   *jsonschema.Schema
}

type answer struct {
	headers []field
	content map[string]*jsonschema.Schema // by media type; none: no body
}

// servers are the hosts in patterns, by their URL in the document.
var servers = map[string]string{"http://127.0.0.1:8080": "public", "http://127.0.0.1:8081": "ops", "http://127.0.0.1:8090": "sim"}

// notInterface are routes that are not in the document, and why.
var notInterface = map[string]string{
	"POST public/logout":              "a form of the pages, bound to the page that it stands on",
	"POST public/login":               "a form of the pages",
	"GET public/login/{id}":           "the page that the forms lead to",
	"POST public/login/{id}/answers":  "a form of the pages",
	"POST public/login/{id}/factor":   "a form of the pages",
	"POST public/login/{id}/cancel":   "a form of the pages",
	"GET public/login/{id}/return":    "where a provider that hosts approvals sends the browser back to",
	"POST public/devices":             "a form of the pages",
	"POST public/devices/{id}":        "a form of the pages",
	"POST public/devices/{id}/remove": "a form of the pages",
	"GET public/authenticator/{file}": "what the app of the phone is made of",
	"GET public/assets/":              "what the pages are made of",
	"GET public/assets/{name}":        "what the pages are made of",
	"GET ops/debug/pprof/":            "Go's own interface, where the setting debug.profiles says so",
	"GET ops/debug/pprof/profile":     "the same",
	"GET ops/debug/pprof/trace":       "the same",
}

func newConformity(s *system) *conformity {
	doc := describe(s.t, "openapi.yaml")
	c := &conformity{s: s, operations: make(map[string]operation), mux: http.NewServeMux(), met: &met{answers: make(map[string]bool)}}
	for path, item := range doc.Get("paths").Each() {
		server := doc.Get("servers", "0", "url")
		if own := item.Get("servers"); own.There() {
			server = own.Get("0", "url")
		}
		for method, op := range item.Each() {
			if op.Get("operationId").There() { // the others are what the path's operations share
				if op.Get("x-any-method").True() {
					method = ""
				}
				c.operations[pattern(method, servers[server.Text()], path)] = readOperation(doc, item, op)
			}
		}
	}
	for pattern := range c.operations {
		c.mux.Handle(pattern, http.NotFoundHandler())
	}
	for pattern := range notInterface {
		c.mux.Handle(pattern, http.NotFoundHandler())
	}
	c.unknown = map[int]answer{
		http.StatusNotFound:         readAnswer(doc, doc.Get("components", "responses", "NotFound")),
		http.StatusMethodNotAllowed: readAnswer(doc, doc.Get("components", "responses", "MethodNotAllowed")),
	}
	c.login = doc.schema(doc.Get("components", "schemas", "Login"))
	return c
}

// pattern is a pattern of [http.ServeMux], whose wildcards are written as in the document.
func pattern(method, server, path string) string {
	if path == "/" {
		path = "/{$}"
	}
	return strings.TrimSpace(strings.ToUpper(method) + " " + server + path)
}

func readOperation(doc *described, item, op document.Node) operation {
	o := operation{body: readContent(doc, op.Get("requestBody")), answers: make(map[int]answer)}
	for _, list := range []document.Node{item.Get("parameters"), op.Get("parameters")} {
		for _, p := range list.Each() {
			o.parameters = append(o.parameters, readField(doc, p.Get("in").Text(), p.Get("name").Text(), p))
		}
	}
	open := false // without a secret
	for _, choice := range op.Get("security").Each() {
		open = open || len(maps.Collect(choice.Each())) == 0
		for name := range choice.Each() {
			scheme := doc.Get("components", "securitySchemes", name)
			secret := field{in: scheme.Get("in").Text(), name: scheme.Get("name").Text()}
			if scheme.Get("type").Text() == "http" {
				secret = field{in: "header", name: "Authorization"}
			}
			o.secrets = append(o.secrets, secret)
		}
	}
	if open {
		o.secrets = nil
	}
	for status, res := range op.Get("responses").Each() {
		code, err := strconv.Atoi(status)
		must(doc.t, err)
		o.answers[code] = readAnswer(doc, res)
	}
	return o
}

func readField(doc *described, in, name string, n document.Node) field {
	return field{in: in, name: name, required: n.Get("required").True(), schema: doc.schema(n.Get("schema"))}
}

func readAnswer(doc *described, res document.Node) answer {
	a := answer{content: readContent(doc, res)}
	for name, h := range res.Get("headers").Each() {
		a.headers = append(a.headers, readField(doc, "header", name, h))
	}
	return a
}

func readContent(doc *described, n document.Node) map[string]*jsonschema.Schema {
	content := make(map[string]*jsonschema.Schema)
	for media, m := range n.Get("content").Each() {
		content[media] = doc.schema(m.Get("schema"))
	}
	return content
}

// RoundTrip makes a request and reports what is not as the document says. Requests to anything but the system under test
// are none of its business.
func (c *conformity) RoundTrip(req *http.Request) (*http.Response, error) {
	var sent []byte
	if req.Body != nil {
		var err error
		if sent, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req = req.Clone(req.Context())
		req.Body = io.NopCloser(bytes.NewReader(sent))
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	server := map[string]string{c.s.HTTP: "public", c.s.Ops: "ops", c.s.Sim: "sim"}[req.URL.Scheme+"://"+req.URL.Host]
	if err != nil || server == "" {
		return res, err
	}
	if err := c.check(server, req, sent, res); err != nil {
		c.s.t.Errorf("%s %s: %d is not as schemas/openapi.yaml says: %v", req.Method, req.URL.Path, res.StatusCode, err)
	}
	return res, nil
}

func (c *conformity) check(server string, req *http.Request, sent []byte, res *http.Response) error {
	_, pattern := c.mux.Handler(&http.Request{Method: req.Method, Host: server, URL: req.URL})
	op, ok := c.operations[pattern]
	if _, skip := notInterface[pattern]; skip {
		return nil
	}
	if !ok {
		return c.checkAnswer(c.unknown, req, res)
	}
	c.met.Lock()
	c.met.answers[fmt.Sprint(pattern, " ", res.StatusCode)] = true
	c.met.Unlock()
	var accepted error
	if res.StatusCode < 400 {
		accepted = op.checkRequest(req, sent, res.StatusCode)
	}
	return errors.Join(accepted, c.checkAnswer(op.answers, req, res))
}

// checkRequest says what is wrong with a request that was accepted with a status.
func (o operation) checkRequest(req *http.Request, sent []byte, status int) (err error) {
	wrong := func(format string, args ...any) { err = errors.Join(err, fmt.Errorf("request: "+format, args...)) }
	query := req.URL.Query()
	for _, p := range o.parameters {
		text, given := "", false
		switch p.in {
		case "query":
			text, given = query.Get(p.name), query.Has(p.name)
			query.Del(p.name)
		case "header":
			text, given = req.Header.Get(p.name), len(req.Header.Values(p.name)) > 0
		case "cookie":
			if cookie, err := req.Cookie(p.name); err == nil {
				text, given = cookie.Value, true
			}
		case "path":
			continue // the pattern has seen to it
		}
		if !given && p.required {
			wrong("%s is missing", p.name)
		} else if given {
			if err := fits(p.schema, text); err != nil {
				wrong("%s: %v", p.name, err)
			}
		}
	}
	for name := range query {
		wrong("%s is no parameter", name)
	}
	let := func(s field) bool {
		_, err := req.Cookie(s.name)
		return s.in == "header" && req.Header.Get(s.name) != "" || s.in == "cookie" && err == nil
	}
	if status < 300 && len(o.secrets) > 0 && !slices.ContainsFunc(o.secrets, let) {
		wrong("it came without a secret")
	}
	switch {
	case len(o.body) == 0 && len(sent) > 0:
		wrong("it takes no body")
	case len(o.body) > 0:
		if bad := checkBody(o.body, req.Header, sent); bad != nil {
			wrong("%v", bad)
		}
	}
	return err
}

// checkAnswer says what is wrong with an answer. Afterwards its body can be read again.
func (c *conformity) checkAnswer(answers map[int]answer, req *http.Request, res *http.Response) (err error) {
	a, ok := answers[res.StatusCode]
	if !ok {
		return fmt.Errorf("the status is not among %v", slices.Sorted(maps.Keys(answers)))
	}
	for _, h := range a.headers {
		values := res.Header.Values(h.name)
		if h.required && len(values) == 0 {
			err = errors.Join(err, fmt.Errorf("header %s is missing", h.name))
		}
		for _, v := range values {
			if bad := fits(h.schema, v); bad != nil {
				err = errors.Join(err, fmt.Errorf("header %s: %w", h.name, bad))
			}
		}
	}
	if req.Method == http.MethodHead || res.Header.Get("Content-Type") == "text/event-stream" {
		return err // a stream goes on; who reads it checks its events
	}
	body, readErr := io.ReadAll(res.Body)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	if len(a.content) == 0 {
		if len(body) > 0 && res.StatusCode/100 != 3 { // browsers follow redirects, whatever they hold
			err = errors.Join(err, errors.New("it has a body"))
		}
		return err
	}
	return errors.Join(err, checkBody(a.content, res.Header, body))
}

func checkBody(content map[string]*jsonschema.Schema, header http.Header, body []byte) error {
	media, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		return fmt.Errorf("content type: %w", err)
	}
	schema, ok := content[media]
	switch {
	case !ok:
		return fmt.Errorf("%s is not among %v", media, slices.Sorted(maps.Keys(content)))
	case strings.HasSuffix(media, "json"):
		return fitsJSON(schema, body)
	default:
		return schema.Validate(string(body))
	}
}

// missing lists the answers of the document that have not been met.
func (c *conformity) missing() (all []string) {
	c.met.Lock()
	defer c.met.Unlock()
	for pattern, op := range c.operations {
		for status := range op.answers {
			if key := fmt.Sprint(pattern, " ", status); !c.met.answers[key] {
				all = append(all, key)
			}
		}
	}
	slices.Sort(all)
	return all
}

// Every example is what its schema says.
func TestOpenAPIExamples(t *testing.T) {
	doc, examples := describe(t, "openapi.yaml"), 0
	check := func(schema *jsonschema.Schema, example document.Node) {
		examples++
		if err := doc.example(schema, example); err != nil {
			t.Errorf("%s: %v", example.At, err)
		}
	}
	var walk func(n document.Node)
	walk = func(n document.Node) {
		if schema := doc.schema(n.Get("schema")); schema != nil && n.Target().At == n.At {
			if example := n.Get("example"); example.There() {
				check(schema, example)
			}
			for _, example := range n.Get("examples").Each() {
				check(schema, example.Get("value"))
			}
		}
		if n.Target().At != n.At {
			return // it is walked where it stands
		}
		for _, child := range n.Each() {
			walk(child)
		}
	}
	walk(doc.Node)
	if examples < 50 {
		t.Errorf("only %d examples were found", examples)
	}
}

// Every route of the program is in the document, and every operation of the document is a route.
func TestOpenAPIRoutes(t *testing.T) {
	c := newConformity(&system{t: t})
	routes := make(map[string]bool)
	for server, files := range map[string][]string{
		"public": {"../gateway/*.go", "../gateway/docs/*.go", "../gateway/authenticator/*.go", "../gateway/pages/*.go"}, "ops": {"../internal/runtime/ops.go", "../console/*.go"}, "sim": {"../simulators/control.go"},
	} {
		for _, glob := range files {
			found, err := filepath.Glob(glob)
			if err != nil || len(found) == 0 {
				t.Fatal(glob, found, err)
			}
			for _, file := range found {
				source, err := os.ReadFile(file)
				must(t, err)
				if strings.HasSuffix(file, "_test.go") {
					continue
				}
				for _, m := range route.FindAllSubmatch(source, -1) {
					routes[pattern(string(m[1]), server, string(m[2])+string(m[4]))] = true
				}
			}
		}
	}
	for pattern := range c.operations {
		if !routes[pattern] {
			t.Errorf("the program does not route %s", pattern)
		}
	}
	for pattern := range routes {
		if _, ok := c.operations[pattern]; !ok && notInterface[pattern] == "" {
			t.Errorf("schemas/openapi.yaml lacks %s", pattern)
		}
	}
}

// route matches a pattern in the program's text: "GET /v1/session", method and path as two arguments, or, in a table, a path
// that takes any method.
var route = regexp.MustCompile(`(?:"(GET|POST|PUT|PATCH|DELETE)(?: |", ")(/[^"]*)"|"()(/[^"]*)": )`)
