// Package authenticator is the app that makes a phone an authenticator: files for the phone's browser, which runs them by
// itself. It is plain ES modules without a build step.
//
//	app/app.js      what happens, and when
//	app/views.js    what it looks like
//	app/device.js   the key, which never leaves the browser, and requests that prove it
//	app/channel.js  hears of news: a stream, or polling
//	app/push.js     hears of news while the page is closed
//	app/sw.js       the service worker: the shell without a network, and notifications
//	app/texts.js    texts, which are in app/en.json and app/ja.json
//
// A browser that takes no modules in service workers runs the app without the last two.
package authenticator

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"time"
)

//go:embed app
var files embed.FS

// Path is where the app is.
const Path = "/authenticator"

const (
	page   = "index.html"
	worker = "sw.js"
	// scope is what the service worker serves. Its own path is longer, so that the browser asks for the header below.
	scope = Path
)

// contentTypes by extension.
var contentTypes = map[string]string{
	".css":         "text/css; charset=utf-8",
	".html":        "text/html; charset=utf-8",
	".js":          "text/javascript; charset=utf-8",
	".json":        "application/json",
	".png":         "image/png",
	".webmanifest": "application/manifest+json",
}

// contentPolicy lets the app reach nothing but its own origin, and no text become script: the DOM takes scripts from the one
// policy of Trusted Types only, which the app has for its worker.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"manifest-src 'self'; worker-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'; " +
	"require-trusted-types-for 'script'; trusted-types authenticator"

// An App is the files of the app. It does not change while the program runs.
type App struct {
	files map[string][]byte // by name
	etag  string            // of all files, since they only work together
}

// New reads the embedded files. outside are paths of the gateway that the shell needs too, and outsideVersion changes with
// what is there.
func New(outside []string, outsideVersion string) (*App, error) {
	a := &App{files: make(map[string][]byte)}
	entries, err := fs.ReadDir(files, "app")
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	sum.Write([]byte(outsideVersion)) // never fails (hash.Hash)
	shell := append([]string{scope}, outside...)
	for _, entry := range entries {
		name := entry.Name()
		content, err := fs.ReadFile(files, "app/"+name)
		if err != nil {
			return nil, err
		}
		if contentTypes[path.Ext(name)] == "" {
			return nil, fmt.Errorf("authenticator: no content type for %s", name)
		}
		a.files[name] = content
		fmt.Fprintf(sum, "%s %d %s", name, len(content), content)
		if name != page && name != worker {
			shell = append(shell, scope+"/"+name)
		}
	}
	version := base64.RawURLEncoding.EncodeToString(sum.Sum(nil)[:12])
	a.etag = `"` + version + `"`
	return a, a.fillWorker(version, shell)
}

// fillWorker tells the service worker what it keeps. The browser takes a new worker when its bytes change.
func (a *App) fillWorker(version string, shell []string) error {
	for mark, value := range map[string]any{`"@version"`: version, `["@shell"]`: shell} {
		text, err := json.Marshal(value)
		if err != nil {
			return err
		}
		if bytes.Count(a.files[worker], []byte(mark)) != 1 {
			return fmt.Errorf("authenticator: %s has no %s", worker, mark)
		}
		a.files[worker] = bytes.Replace(a.files[worker], []byte(mark), text, 1)
	}
	return nil
}

// Register adds the app to the routes of a gateway, which has an answer of its own where there is nothing.
func (a *App) Register(mux *http.ServeMux, nothing http.Handler) {
	mux.HandleFunc("GET /authenticator", func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, page) })
	mux.HandleFunc("GET /authenticator/{file}", func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("file")
		if a.files[name] == nil || name == page {
			nothing.ServeHTTP(w, r)
			return
		}
		a.serve(w, r, name)
	})
}

func (a *App) serve(w http.ResponseWriter, r *http.Request, name string) {
	h := w.Header()
	h.Set("Content-Type", contentTypes[path.Ext(name)])
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache") // kept, and asked about at each use
	h.Set("ETag", a.etag)
	if name == worker {
		h.Set("Service-Worker-Allowed", scope)
	}
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(a.files[name]))
}
