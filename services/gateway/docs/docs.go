// Package docs shows what Sekisho says of itself: one page with every operation of the HTTP APIs and everything that is on
// the bus, drawn from schemas/openapi.yaml, schemas/asyncapi.yaml and the JSON Schemas, and these files themselves.
package docs

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/sekisho/sekisho/schemas"
	"github.com/sekisho/sekisho/services/internal/document"
	"github.com/sekisho/sekisho/services/internal/httpapi"
)

//go:embed docs.html docs.css
var files embed.FS

// Docs are the page and its files. It does not change while the program runs.
type Docs struct {
	files map[string]file // by name; the page is "index.html"
}

type file struct {
	content     []byte
	contentType string
	etag        string
}

// contentTypes by extension. JSON Schemas have a media type of their own (JSON Schema 2020-12, section 14.1), YAML has had
// one since RFC 9512.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".yaml": "application/yaml",
	".json": "application/schema+json",
}

// New draws the page. An error says that the documents lack something that it needs.
func New() (*Docs, error) {
	d := &Docs{files: make(map[string]file)}
	names, err := fs.Glob(schemas.Files, "*.*")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		content, err := fs.ReadFile(schemas.Files, name)
		if err != nil {
			return nil, err
		}
		d.add(name, content)
	}
	style, err := files.ReadFile("docs.css")
	if err != nil {
		return nil, err
	}
	d.add("docs.css", style)
	page, err := draw()
	if err != nil {
		return nil, fmt.Errorf("draw /docs: %w", err)
	}
	d.add("index.html", page)
	return d, nil
}

func (d *Docs) add(name string, content []byte) {
	sum := sha256.Sum256(content)
	d.files[name] = file{content, contentTypes[path.Ext(name)], `"` + hex.EncodeToString(sum[:8]) + `"`}
}

func draw() ([]byte, error) {
	var content struct {
		API api
		Bus bus
	}
	doc, err := read("openapi.yaml")
	if err != nil {
		return nil, err
	}
	if content.API, err = readAPI(doc); err != nil {
		return nil, err
	}
	if doc, err = read("asyncapi.yaml"); err != nil {
		return nil, err
	}
	if content.Bus, err = readBus(doc); err != nil {
		return nil, err
	}
	page, err := template.New("docs.html").Funcs(template.FuncMap{"prose": prose, "inline": inline}).ParseFS(files, "docs.html")
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = page.Execute(&out, content)
	return out.Bytes(), err
}

func read(name string) (document.Node, error) {
	data, err := fs.ReadFile(schemas.Files, name)
	if err != nil {
		return document.Node{}, err
	}
	return document.Parse(data)
}

// Register adds the page and its files to the routes of a gateway.
func (d *Docs) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /docs", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Language", "en")
		d.serve(w, r, "index.html")
	})
	// Documents refer to the schemas beside them, and people look for these in a folder of their own.
	mux.HandleFunc("GET /docs/{file}", func(w http.ResponseWriter, r *http.Request) { d.serve(w, r, r.PathValue("file")) })
	mux.HandleFunc("GET /docs/schemas/{file}", func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.PathValue("file"), ".schema.json") {
			notFound(w)
			return
		}
		d.serve(w, r, r.PathValue("file"))
	})
}

func (d *Docs) serve(w http.ResponseWriter, r *http.Request, name string) {
	f, ok := d.files[name]
	if !ok {
		notFound(w)
		return
	}
	h := w.Header()
	h.Set("Content-Type", f.contentType)
	h.Set("ETag", f.etag)
	h.Set("Cache-Control", "no-cache")                                     // kept, and asked about at each use
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(f.content)) // also knows ETags that a proxy made weak
}

func notFound(w http.ResponseWriter) { (&httpapi.Problem{Status: http.StatusNotFound}).Write(w) }
