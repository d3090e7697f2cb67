package pages

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

//go:embed assets
var assetFiles embed.FS

// contentTypes is fixed rather than asked of the mime package, which reads the machine's own tables.
var contentTypes = map[string]string{
	".css": "text/css; charset=utf-8",
	".js":  "text/javascript; charset=utf-8",
	".svg": "image/svg+xml",
}

type asset struct {
	content     []byte
	contentType string
	version     string // hash of the content
}

func loadAssets() (map[string]asset, error) {
	files, err := assetFiles.ReadDir("assets")
	if err != nil {
		return nil, fmt.Errorf("read assets: %w", err)
	}
	assets := make(map[string]asset)
	for _, f := range files {
		content, err := assetFiles.ReadFile("assets/" + f.Name())
		if err != nil {
			return nil, fmt.Errorf("read assets: %w", err)
		}
		contentType, ok := contentTypes[path.Ext(f.Name())]
		if !ok {
			return nil, fmt.Errorf("read assets: no content type for %s", f.Name())
		}
		sum := sha256.Sum256(content)
		assets[f.Name()] = asset{content, contentType, base64.RawURLEncoding.EncodeToString(sum[:9])}
	}
	return assets, nil
}

// Version changes with the content of any asset.
func (p *Pages) Version() string {
	versions := make([]string, 0, len(p.assets))
	for _, a := range p.assets {
		versions = append(versions, a.version)
	}
	slices.Sort(versions)
	return strings.Join(versions, " ")
}

func (p *Pages) assetURL(name string) (string, error) {
	a, ok := p.assets[name]
	if !ok {
		return "", fmt.Errorf("no asset %q", name)
	}
	return "/assets/" + name + "?v=" + a.version, nil
}

// Assets serves GET /assets/{name}. An address with the right ?v= is immutable; any other is checked
// again at each use, so that pages of an older build in a rolling deployment never pin what they got.
func (p *Pages) Assets() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /assets/{name}", func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("name")
		a, ok := p.assets[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Type", a.contentType)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("ETag", `"`+a.version+`"`)
		if r.URL.Query().Get("v") == a.version {
			h.Set("Cache-Control", "public, max-age=31536000, immutable")
		} else {
			h.Set("Cache-Control", "no-cache")
		}
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(a.content))
	})
	return mux
}
