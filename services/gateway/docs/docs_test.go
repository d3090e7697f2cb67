package docs

import (
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/schemas"
)

func newServer(t *testing.T) *httptest.Server {
	t.Helper()
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	d.Register(mux)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func get(t *testing.T, address string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// The page shows everything that the documents describe, and holds nothing that the gateway's content policy forbids.
func TestPage(t *testing.T) {
	res, page := get(t, newServer(t).URL+"/docs")
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("%d %s", res.StatusCode, res.Header.Get("Content-Type"))
	}
	api, err := read("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range api.Get("paths").Each() {
		if !strings.Contains(page, "</span> "+path+"</p>") {
			t.Errorf("the page lacks %s", path)
		}
		for _, op := range item.Each() {
			if id := op.Get("operationId").Text(); id != "" && !strings.Contains(page, `id="`+id+`"`) {
				t.Errorf("the page lacks %s", id)
			}
		}
	}
	bus, err := read("asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, channel := range bus.Get("channels").Each() {
		if address := channel.Get("address").Text(); !strings.Contains(page, `<p class="address">`+address+`</p>`) {
			t.Errorf("the page lacks %s", address)
		}
	}
	for step := range events.Steps {
		schema, err := read(string(step) + ".schema.json")
		if err != nil {
			t.Fatal(err)
		}
		_, section, _ := strings.Cut(page, `id="step-`+string(step)+`"`)
		section, _, _ = strings.Cut(section, "</article>")
		for field := range schema.Get("properties").Each() {
			if !strings.Contains(section, `<th scope="row"><code>`+field+`</code>`) {
				t.Errorf("the page lacks %s of %s", field, step)
			}
		}
	}
	for _, forbidden := range []string{"<script", "<style", " style=", " onclick="} {
		if strings.Contains(page, forbidden) {
			t.Errorf("the page holds %q", forbidden)
		}
	}
}

// Every link of the page leads somewhere: to a place on it, or to a file.
func TestLinks(t *testing.T) {
	s := newServer(t)
	_, page := get(t, s.URL+"/docs")
	var places []string
	for _, m := range regexp.MustCompile(` id="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		if slices.Contains(places, m[1]) {
			t.Errorf("%s is there twice", m[1])
		}
		places = append(places, m[1])
	}
	seen := make(map[string]bool)
	for _, m := range regexp.MustCompile(` href="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		link := m[1]
		place, here := strings.CutPrefix(link, "#")
		switch {
		case seen[link] || strings.HasPrefix(link, "/assets/"): // of the other pages
		case here && !slices.Contains(places, place):
			t.Errorf("%s leads nowhere", link)
		case !here:
			if res, _ := get(t, s.URL+link); res.StatusCode != http.StatusOK {
				t.Errorf("%s: %d", link, res.StatusCode)
			}
		}
		seen[link] = true
	}
	if len(seen) < 100 {
		t.Errorf("only %d links", len(seen))
	}
}

func TestFiles(t *testing.T) {
	s := newServer(t)
	for path, want := range map[string][2]string{
		"/docs/openapi.yaml":                   {"application/yaml", "openapi.yaml"},
		"/docs/asyncapi.yaml":                  {"application/yaml", "asyncapi.yaml"},
		"/docs/closed.schema.json":             {"application/schema+json", "closed.schema.json"},
		"/docs/schemas/closed.schema.json":     {"application/schema+json", "closed.schema.json"},
		"/docs/schemas/openapi.yaml":           {},
		"/docs/schemas.go":                     {},
		"/docs/nothing.schema.json":            {},
		"/docs/schemas/..%2fopenapi.yaml":      {},
		"/docs/schemas/examples%2fclosed.json": {},
	} {
		res, body := get(t, s.URL+path)
		if want[0] == "" {
			if res.StatusCode != http.StatusNotFound || res.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s: %d %s", path, res.StatusCode, res.Header.Get("Content-Type"))
			}
			continue
		}
		file, err := fs.ReadFile(schemas.Files, want[1])
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != want[0] || body != string(file) {
			t.Errorf("%s: %d %s, %d bytes", path, res.StatusCode, res.Header.Get("Content-Type"), len(body))
		}
		if again, _ := get(t, s.URL+path, "If-None-Match", "W/"+res.Header.Get("ETag")); again.StatusCode != http.StatusNotModified {
			t.Errorf("%s again: %d", path, again.StatusCode)
		}
	}
}

func TestProse(t *testing.T) {
	got := string(prose("One `a<b>` and **two**,\nstill one.\n\n- first\n- second\n  goes on\n\nLast."))
	want := "<p>One <code>a&lt;b&gt;</code> and <strong>two</strong>,\nstill one.</p>" +
		"<ul><li>first</li><li>second\n  goes on</li></ul><p>Last.</p>"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
