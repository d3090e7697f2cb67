package gateway

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/sekisho/sekisho/services/internal/config"
)

func testBorder(t *testing.T, cfg config.Gateway) *border {
	t.Helper()
	b, err := newBorder(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func from(remote string, headers ...string) *http.Request {
	r := httptest.NewRequest("GET", "http://login.example.com/", nil)
	r.RemoteAddr = remote
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func TestClientAddress(t *testing.T) {
	b := testBorder(t, config.Gateway{Proxies: []string{"10.0.0.0/8", "fd00::/8"}})
	const xff = "X-Forwarded-For"
	tests := []struct {
		name string
		r    *http.Request
		want string
	}{
		{"nobody between", from("192.0.2.7:1234"), "192.0.2.7"},
		{"a header of the client's own", from("192.0.2.7:1234", xff, "203.0.113.9"), "192.0.2.7"},
		{"one proxy", from("10.0.0.1:1234", xff, "192.0.2.7"), "192.0.2.7"},
		{"invented to the left", from("10.0.0.1:1234", xff, "203.0.113.9, 192.0.2.7"), "192.0.2.7"},
		{"two proxies", from("10.0.0.1:1234", xff, "203.0.113.9, 192.0.2.7, 10.0.0.2"), "192.0.2.7"},
		{"two headers", from("10.0.0.1:1234", xff, "203.0.113.9", xff, "192.0.2.7"), "192.0.2.7"},
		{"nonsense", from("10.0.0.1:1234", xff, "a"), "10.0.0.1"},
		{"nonsense behind a proxy", from("10.0.0.1:1234", xff, "192.0.2.7, a, 10.0.0.2"), "10.0.0.2"},
		{"no header", from("10.0.0.1:1234"), "10.0.0.1"},
		{"proxies only", from("10.0.0.1:1234", xff, "10.0.0.3, 10.0.0.2"), "10.0.0.3"},
		{"IPv6", from("[fd00::1]:1234", xff, "2001:db8::7"), "2001:db8::7"},
		{"IPv4 in IPv6", from("[::ffff:10.0.0.1]:1234", xff, "::ffff:192.0.2.7"), "192.0.2.7"},
	}
	for _, tt := range tests {
		if got := b.client(tt.r).String(); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestSource(t *testing.T) {
	b := testBorder(t, config.Gateway{})
	for remote, want := range map[string]string{
		"192.0.2.7:1":              "192.0.2.7/32",
		"[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::/64",
		"@":                        "invalid Prefix",
	} {
		if got := b.source(from(remote)).String(); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
}

func TestReturnTo(t *testing.T) {
	b := testBorder(t, config.Gateway{Origins: []string{"https://app.example.com", "http://localhost:3000"}, Proxies: []string{"10.0.0.0/8"}})
	for target, ok := range map[string]bool{
		"/":                                  true,
		"/page?a=b#c":                        true,
		"/a//b":                              true,
		"https://app.example.com/page?a=b":   true,
		"https://APP.example.com/":           false, // not as browsers serialize it
		"http://localhost:3000":              true,
		"http://login.example.com/page":      true, // the gateway's own
		"":                                   false,
		"page":                               false,
		"//evil.example":                     false,
		"///evil.example":                    false,
		`/\evil.example`:                     false,
		`\\evil.example`:                     false,
		"/\t/evil.example":                   false,
		" //evil.example":                    false,
		"https://evil.example/":              false,
		"https://app.example.com.evil.test/": false,
		"https://app.example.com@evil.test/": false,
		"https://user@app.example.com/":      false,
		"http://app.example.com/":            false, // another scheme
		"https://app.example.com:444/":       false,
		"https:app.example.com":              false,
		"https:/app.example.com":             false,
		"javascript:alert(1)":                false,
		"data:text/html,x":                   false,
		"https://app.example.com\\@evil/":    false,
	} {
		if got, accepted := b.returnTo("http://login.example.com", target); accepted != ok {
			t.Errorf("%q: %v (%q), want %v", target, accepted, got, ok)
		}
	}
}

// Origins and proxies count as they were pasted into the file of settings.
func TestPastedSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sekisho.yaml")
	const text = `gateway: {url: "https://Login.example.com/", origins: ["https://App.example.com:443/"], proxies: [10.0.0.1]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	b := testBorder(t, cfg.Gateway)
	for _, origin := range []string{"https://app.example.com", "https://login.example.com"} {
		if !b.cookiesCount(from("192.0.2.7:1", "Origin", origin)) {
			t.Errorf("cookies from %s do not count", origin)
		}
	}
	if _, ok := b.returnTo("https://login.example.com", "https://app.example.com/page"); !ok {
		t.Error("the app can not be returned to")
	}
	for remote, want := range map[string]string{"10.0.0.1:1": "192.0.2.7", "10.0.0.2:1": "10.0.0.2"} {
		if got := b.client(from(remote, "X-Forwarded-For", "192.0.2.7")).String(); got != want {
			t.Errorf("by %s: %s, want %s", remote, got, want)
		}
	}
}

func TestCookiesCount(t *testing.T) {
	b := testBorder(t, config.Gateway{Origins: []string{"https://app.example.com"}, Proxies: []string{"10.0.0.0/8"}})
	tests := []struct {
		name string
		r    *http.Request
		want bool
	}{
		{"nothing said", from("192.0.2.7:1"), false},
		{"same origin", from("192.0.2.7:1", "Sec-Fetch-Site", "same-origin"), true},
		{"same site", from("192.0.2.7:1", "Sec-Fetch-Site", "same-site"), false},
		{"typed in", from("192.0.2.7:1", "Sec-Fetch-Site", "none"), false},
		{"own origin", from("192.0.2.7:1", "Origin", "http://login.example.com"), true},
		{"own origin, other scheme", from("192.0.2.7:1", "Origin", "https://login.example.com"), false},
		{"own origin behind TLS", from("10.0.0.1:1", "Origin", "https://login.example.com", "X-Forwarded-Proto", "https"), true},
		{"TLS invented", from("192.0.2.7:1", "Origin", "https://login.example.com", "X-Forwarded-Proto", "https"), false},
		{"host of the proxy", from("10.0.0.1:1", "Origin", "http://sso.example.com", "X-Forwarded-Host", "sso.example.com"), true},
		{"host invented", from("192.0.2.7:1", "Origin", "http://sso.example.com", "X-Forwarded-Host", "sso.example.com"), false},
		{"configured", from("192.0.2.7:1", "Origin", "https://app.example.com"), true},
		{"another", from("192.0.2.7:1", "Origin", "https://evil.example"), false},
		{"another that claims more", from("192.0.2.7:1", "Origin", "https://evil.example", "Sec-Fetch-Site", "same-origin"), false},
		{"null", from("192.0.2.7:1", "Origin", "null"), false},
	}
	for _, tt := range tests {
		if got := b.cookiesCount(tt.r); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
