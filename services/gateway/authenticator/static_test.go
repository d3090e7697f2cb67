package authenticator

import (
	"encoding/json"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := files.ReadFile("app/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func texts(t *testing.T, language string) map[string]string {
	t.Helper()
	var all map[string]string
	if err := json.Unmarshal([]byte(read(t, language+".json")), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// Both languages say the same, with the same values in them, and the code asks for nothing that is not there.
func TestTexts(t *testing.T) {
	en, ja := texts(t, "en"), texts(t, "ja")
	if a, b := slices.Sorted(maps.Keys(en)), slices.Sorted(maps.Keys(ja)); !slices.Equal(a, b) {
		t.Errorf("en and ja differ in keys:\n%v\n%v", a, b)
	}
	values := regexp.MustCompile(`\{\w+\}`)
	for key, text := range en {
		a, b := values.FindAllString(text, -1), values.FindAllString(ja[key], -1)
		slices.Sort(a)
		slices.Sort(b)
		if text == "" || ja[key] == "" || !slices.Equal(a, b) {
			t.Errorf("%s: %q and %q", key, text, ja[key])
		}
	}
	var code strings.Builder
	names, err := fs.Glob(files, "app/*.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		code.WriteString(read(t, strings.TrimPrefix(name, "app/")))
	}
	for _, m := range regexp.MustCompile(`\bt\("([a-z_.]+)"`).FindAllStringSubmatch(code.String(), -1) {
		if en[m[1]] == "" {
			t.Errorf("no text %s", m[1])
		}
	}
	for key := range en {
		// Keys that end in a value are written as a template: t(`prompt.${problem}`).
		prefix := key[:strings.IndexByte(key+".", '.')]
		if !strings.Contains(code.String(), `"`+key+`"`) && !strings.Contains(code.String(), "`"+prefix+".${") {
			t.Errorf("nothing shows %s", key)
		}
	}
}

func TestFiles(t *testing.T) {
	app, err := New([]string{"/assets/style.css"}, "1")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	app.Register(mux, http.NotFoundHandler())
	get := func(path, etag string) *http.Response {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("If-None-Match", etag)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w.Result()
	}
	for path, contentType := range map[string]string{
		"/authenticator": "text/html; charset=utf-8", "/authenticator/app.js": "text/javascript; charset=utf-8", "/authenticator/ja.json": "application/json",
		"/authenticator/manifest.webmanifest": "application/manifest+json", "/authenticator/icon-192.png": "image/png",
	} {
		res := get(path, "")
		h := res.Header
		if res.StatusCode != 200 || h.Get("Content-Type") != contentType || h.Get("Cache-Control") != "no-cache" || !strings.Contains(h.Get("Content-Security-Policy"), "require-trusted-types-for 'script'") {
			t.Errorf("%s: %d %v", path, res.StatusCode, h)
		}
		if again := get(path, h.Get("ETag")); again.StatusCode != http.StatusNotModified {
			t.Errorf("%s: %d for what is known", path, again.StatusCode)
		}
	}
	for _, path := range []string{"/authenticator/index.html", "/authenticator/none.js", "/authenticator/"} {
		if res := get(path, ""); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
	if got := get("/authenticator/sw.js", "").Header.Get("Service-Worker-Allowed"); got != "/authenticator" {
		t.Errorf("the worker is allowed %q", got)
	}
}

// A change of anything that the shell is made of makes another worker, so that browsers take the new shell.
func TestWorkerChangesWithTheShell(t *testing.T) {
	worker := func(version string) string {
		app, err := New([]string{"/assets/style.css"}, version)
		if err != nil {
			t.Fatal(err)
		}
		return string(app.files["sw.js"])
	}
	one, two := worker("1"), worker("2")
	if one == two {
		t.Error("another style, the same worker")
	}
	for _, path := range []string{`"/authenticator"`, `"/authenticator/app.js"`, `"/authenticator/ja.json"`, `"/assets/style.css"`} {
		if !strings.Contains(one, path) {
			t.Errorf("the shell is without %s", path)
		}
	}
	if strings.Contains(one, "@version") || strings.Contains(one, "@shell") {
		t.Error("the worker was not filled in")
	}
}

// The manifest names files that there are.
func TestManifest(t *testing.T) {
	var manifest struct {
		StartURL string `json:"start_url"`
		Icons    []struct{ Src string }
	}
	if err := json.Unmarshal([]byte(read(t, "manifest.webmanifest")), &manifest); err != nil {
		t.Fatal(err)
	}
	for _, icon := range manifest.Icons {
		read(t, strings.TrimPrefix(icon.Src, "/authenticator/"))
	}
	if manifest.StartURL != scope || len(manifest.Icons) < 3 {
		t.Errorf("manifest %+v", manifest)
	}
}
