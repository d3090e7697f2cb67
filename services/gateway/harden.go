package gateway

import (
	"net/http"
	"slices"
	"strings"
)

// harden sets what holds for every answer, and lets scripts of the configured origins use the API.
func (g *gateway) harden(next http.Handler) http.Handler {
	contentPolicy := g.contentPolicy("")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin") // no-referrer would take the Origin from our own forms
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if g.border.secure(r) {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if strings.HasPrefix(r.URL.Path, "/v1/") && g.crossOriginAPI(w, r) {
			return
		}
		next.ServeHTTP(w, r)
	})
}

// contentPolicy says what pages may load, and from which other origin, if any, they may load scripts that talk to it.
func (g *gateway) contentPolicy(scripts string) string {
	// Browsers check a redirect that answers a form against form-action too, so it must name where logins lead to.
	formAction := strings.Join(append([]string{"form-action 'self'"}, g.cfg.Gateway.Origins...), " ")
	self := strings.TrimSpace("'self' " + scripts)
	return "default-src 'none'; script-src " + self + "; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src " + self + "; " +
		formAction + "; frame-ancestors 'none'; base-uri 'none'"
}

// crossOriginAPI permits scripts of the configured origins to use the API (Fetch, CORS protocol), and reports whether
// the request only asked for that permission.
func (g *gateway) crossOriginAPI(w http.ResponseWriter, r *http.Request) (answered bool) {
	h, origin := w.Header(), r.Header.Get("Origin")
	h.Add("Vary", "Origin")
	if !slices.Contains(g.cfg.Gateway.Origins, origin) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Set("Access-Control-Expose-Headers", "Location, Retry-After")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST, PATCH, DELETE")
	h.Set("Access-Control-Allow-Headers", "Content-Type, Authorization, "+deviceHeader)
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}
