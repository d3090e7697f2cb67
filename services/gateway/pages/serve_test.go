package pages

import (
	"fmt"
	"math"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func TestAssets(t *testing.T) {
	p := newPages(t)
	h := p.Assets()
	for name, contentType := range map[string]string{
		"style.css": "text/css; charset=utf-8", "login.js": "text/javascript; charset=utf-8",
		"icon.svg": "image/svg+xml", "gate.svg": "image/svg+xml",
	} {
		address, err := p.assetURL(name)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", address, nil))
		if w.Code != 200 || w.Body.Len() == 0 {
			t.Errorf("%s: %d with %d bytes", name, w.Code, w.Body.Len())
		}
		for header, want := range map[string]string{
			"Content-Type": contentType, "X-Content-Type-Options": "nosniff", "Cache-Control": "public, max-age=31536000, immutable",
		} {
			if got := w.Header().Get(header); got != want {
				t.Errorf("%s: %s is %q, want %q", name, header, got, want)
			}
		}

		r := httptest.NewRequest("GET", "/assets/"+name+"?v=older", nil)
		r.Header.Set("If-None-Match", w.Header().Get("ETag"))
		w = httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 304 || w.Header().Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: known content under another version: %d, %s", name, w.Code, w.Header().Get("Cache-Control"))
		}
	}
}

func TestAssetsServeNothingElse(t *testing.T) {
	h := newPages(t).Assets()
	for request, want := range map[string]int{
		"GET /assets/none.css": 404, "GET /assets/": 404, "GET /assets/%2e%2e%2fserve.go": 404, "POST /assets/style.css": 405,
	} {
		method, path, _ := strings.Cut(request, " ")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		if w.Code != want {
			t.Errorf("%s: %d, want %d", request, w.Code, want)
		}
	}
}

// Text has a contrast of at least 4.5:1, edges of fields and the focus ring 3:1 (WCAG 2.2, 1.4.3 and 1.4.11).
func TestContrast(t *testing.T) {
	css := string(newPages(t).assets["style.css"].content)
	color := regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6});`)
	themes := regexp.MustCompile(`(?s):root \{(.*?)\}`).FindAllStringSubmatch(css, -1)
	if len(themes) != 2 {
		t.Fatalf("%d themes", len(themes))
	}
	for i, theme := range []string{"light", "dark"} {
		luminance := make(map[string]float64)
		for _, m := range color.FindAllStringSubmatch(themes[0][1]+themes[i][1], -1) {
			luminance[m[1]] = relativeLuminance(m[2])
		}
		for pair, least := range map[string]float64{
			"ink paper": 4.5, "ink card": 4.5, "muted paper": 4.5, "muted card": 4.5, "link card": 4.5, "bad card": 4.5,
			"on-brand brand": 4.5, "on-primary primary": 4.5, "on-primary primary-hover": 4.5,
			"good good-ground": 4.5, "warn warn-ground": 4.5, "bad bad-ground": 4.5,
			"edge card": 3, "focus card": 3, "focus paper": 3,
		} {
			t.Run(fmt.Sprint(theme, " ", pair), func(t *testing.T) {
				a, b, _ := strings.Cut(pair, " ")
				la, oka := luminance[a]
				lb, okb := luminance[b]
				if !oka || !okb {
					t.Fatal("no such color")
				}
				if c := (max(la, lb) + .05) / (min(la, lb) + .05); c < least {
					t.Errorf("contrast %.2f, want %.1f", c, least)
				}
			})
		}
	}
}

// relativeLuminance of an sRGB color, as WCAG 2.2 defines it.
func relativeLuminance(hex string) float64 {
	var sum float64
	for i, weight := range []float64{.2126, .7152, .0722} {
		n, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		if err != nil {
			return math.NaN()
		}
		c := float64(n) / 255
		if c <= .04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+.055)/1.055, 2.4)
		}
		sum += weight * c
	}
	return sum
}
