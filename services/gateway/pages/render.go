package pages

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"time"
)

//go:embed templates
var templates embed.FS

// Pages renders pages in every language. It is safe for concurrent use.
type Pages struct {
	assets    map[string]asset
	templates map[string]*template.Template // by language and page: "ja/login"
}

// New reads the embedded templates, catalogs and assets.
func New() (*Pages, error) {
	assets, err := loadAssets()
	if err != nil {
		return nil, err
	}
	p := &Pages{assets: assets, templates: make(map[string]*template.Template)}
	for _, lang := range languages {
		texts, err := readCatalog(lang)
		if err != nil {
			return nil, err
		}
		if err := p.parse(lang, texts); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// parse adds the pages of one language.
func (p *Pages) parse(lang string, texts catalog) error {
	layout, err := template.New("layout.html").Funcs(template.FuncMap{
		"lang":     func() string { return lang },
		"other":    func() string { return otherLanguage(lang) },
		"asset":    p.assetURL,
		"signin":   SignInURL,
		"t":        texts.text,
		"name":     texts.name,
		"moment":   func(t time.Time) (string, error) { return texts.format("format.moment", t) },
		"clock":    func(t time.Time) (string, error) { return texts.format("format.clock", t) },
		"datetime": func(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") },
	}).ParseFS(templates, "templates/layout.html")
	if err != nil {
		return fmt.Errorf("parse layout: %w", err)
	}
	for _, page := range []Page{SignIn{}, StepUp{}, Login{}, Home{}, Devices{}, Invitation{}, SignedOut{}, Problem{}} {
		t, err := template.Must(layout.Clone()).ParseFS(templates, "templates/"+page.template()+".html")
		if err != nil {
			return fmt.Errorf("parse page %s: %w", page.template(), err)
		}
		p.templates[path.Join(lang, page.template())] = t
	}
	return nil
}

// Render answers with a page in one of the languages of [Negotiate]. It forbids caching, since pages hold
// form tokens and who is logged in. Nothing has been written when it fails to draw the page; an error
// after that means that the client is gone.
func (p *Pages) Render(w http.ResponseWriter, status int, lang string, page Page) error {
	t, ok := p.templates[path.Join(lang, page.template())]
	if !ok {
		return fmt.Errorf("render page %s: no language %q", page.template(), lang)
	}
	var body bytes.Buffer
	if err := t.Execute(&body, page); err != nil {
		return fmt.Errorf("render page %s: %w", page.template(), err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Language", lang)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if _, err := body.WriteTo(w); err != nil {
		return fmt.Errorf("write page %s: %w", page.template(), err)
	}
	return nil
}
