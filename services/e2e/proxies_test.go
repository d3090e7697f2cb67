package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

const proxyDir = "../../deploy/proxies"

// TestProxies runs real proxies with the ready snippets of deploy/proxies, in front of the gateway and two apps.
func TestProxies(t *testing.T) {
	site := newSite(t)
	proxies := map[string]*proxy{"nginx": site.nginx(t), "caddy": site.caddy(t), "haproxy": site.haproxy(t)}
	for name, p := range proxies {
		t.Run(name, func(t *testing.T) { p.roads(t, name+"-user") })
	}
	site.system.stop()
	for name, p := range proxies {
		t.Run(name+" without the gateway", p.closed)
	}
}

// A site is a gateway, two apps and a certificate for their hosts: what stands around a proxy.
type site struct {
	system        *system
	demo, payroll *backend
	roots         *x509.CertPool
	certificate   string // files
	key           string
	both          string
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy.yaml")
	must(t, os.WriteFile(policy, []byte("apps:\n  demo: {}\n  payroll: {on_ok: 2}\n"), 0o600))
	s := &site{demo: newBackend(t), payroll: newBackend(t)}
	s.system = start(t, cheap+`
policy: `+policy+`
gateway:
  url: https://login.example.com
  origins: [https://app.example.com, https://payroll.example.com]
  proxies: [127.0.0.1/32]
  cookie_domain: example.com
`)
	s.certify(t, dir)
	return s
}

// certify makes a certificate for all hosts of the site.
func (s *site) certify(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"*.example.com"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	s.certificate, s.key, s.both = filepath.Join(dir, "certificate.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "both.pem")
	must(t, os.WriteFile(s.certificate, certificate, 0o600))
	must(t, os.WriteFile(s.key, secret, 0o600))
	must(t, os.WriteFile(s.both, slices.Concat(certificate, secret), 0o600))
	s.roots = x509.NewCertPool()
	s.roots.AppendCertsFromPEM(certificate)
}

// A backend is an app that says who it takes the user for.
type backend struct {
	*httptest.Server
	asked atomic.Int32
}

// seen is what a back end was told.
type seen struct {
	Method, Path, Body string
	Header             http.Header
}

func newBackend(t *testing.T) *backend {
	b := new(backend)
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.asked.Add(1)
		if r.URL.Path == "/forbidden" {
			w.WriteHeader(http.StatusUnauthorized) // the app's own affair
			return
		}
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.NewEncoder(w).Encode(seen{r.Method, r.URL.RequestURI(), string(body), r.Header})
		}
		if err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(b.Close)
	return b
}

// A proxy is one that runs.
type proxy struct {
	site    *site
	address string
	log     lockedBuffer
}

// snippet is a file of deploy/proxies with the addresses of the test in place of those in it.
func (s *site) snippet(t *testing.T, name, address string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(proxyDir, name))
	must(t, err)
	return strings.NewReplacer(
		"127.0.0.1:8080", strings.TrimPrefix(s.system.HTTP, "http://"),
		"127.0.0.1:3000", s.demo.Listener.Addr().String(),
		"127.0.0.1:3001", s.payroll.Listener.Addr().String(),
		"/etc/ssl/example.com.pem", s.certificate,
		"/etc/ssl/example.com.key", s.key,
		"/etc/haproxy/example.com.pem", s.both,
		"listen 443", "listen "+address,
		"bind :443", "bind "+address,
	).Replace(string(data))
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func (s *site) nginx(t *testing.T) *proxy {
	dir, p := t.TempDir(), s.newProxy(t)
	snippet := write(t, dir, "sekisho.conf", s.snippet(t, "nginx.conf", p.address))
	main := write(t, dir, "nginx.conf", `daemon off; pid nginx.pid; error_log stderr; events {}
http { access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s; include `+snippet+`; }`)
	p.start(t, dir, "nginx", "-p", dir, "-c", main, "-e", "stderr")
	return p
}

func (s *site) caddy(t *testing.T) *proxy {
	dir, p := t.TempDir(), s.newProxy(t)
	_, port, err := net.SplitHostPort(p.address)
	must(t, err)
	options := "{\n\tadmin off\n\tauto_https disable_redirects\n\tdefault_bind 127.0.0.1\n\thttps_port " + port + "\n\tstorage file_system " + dir + "\n}\n"
	p.start(t, dir, "caddy", "run", "--adapter", "caddyfile", "--config", write(t, dir, "Caddyfile", options+s.snippet(t, "Caddyfile", p.address)))
	return p
}

func (s *site) haproxy(t *testing.T) *proxy {
	dir, p := t.TempDir(), s.newProxy(t)
	script := write(t, dir, "sekisho.lua", s.snippet(t, "sekisho.lua", p.address))
	snippet := strings.ReplaceAll(s.snippet(t, "haproxy.cfg", p.address), "/etc/haproxy/sekisho.lua", script)
	p.start(t, dir, "haproxy", "-db", "-f", write(t, dir, "haproxy.cfg", snippet))
	return p
}

// newProxy gives a proxy an address that is free.
func (s *site) newProxy(t *testing.T) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return &proxy{site: s, address: l.Addr().String()}
}

// start runs a program until the test ends, and waits until it listens.
func (p *proxy) start(t *testing.T, dir, program string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		path = filepath.Join("/usr/sbin", program) // which is not in everybody's path
	}
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &p.log, &p.log
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: `make packages` installs it", err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Signal(os.Interrupt); <-ended })
	poll(t, program+" listens", func() bool {
		select {
		case <-ended:
			t.Fatalf("%s has ended:\n%s", program, p.log.String())
		default:
		}
		conn, err := net.Dial("tcp", p.address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// browser is a client with cookies of its own, for which the proxy stands behind all names.
func (p *proxy) browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	must(t, err)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: p.site.roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, p.address)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: transport, Timeout: patience}
}

// forged is what a client may claim of itself.
var forged = map[string]string{
	"Remote-User": "admin", "Sekisho-Amr": "all", "Sekisho-Acr": "9fa",
	"Remote_User": "admin", "Sekisho_Amr": "all", "Sekisho_Acr": "9fa", "REMOTE_USER": "admin",
	"X-Forwarded-Host": "evil.example", "X-Forwarded-Uri": "/evil", "X-Forwarded-Proto": "http", "X-Forwarded-For": "203.0.113.1",
}

// ask makes a request with everything forged, follows redirects, and returns where it ended and what is there.
func ask(t *testing.T, client *http.Client, method, address, body string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	must(t, err)
	for name, value := range forged {
		req.Header[name] = []string{value}
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := client.Do(req)
	must(t, err)
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	must(t, err)
	return res, data
}

// submit sends the first form of a page, with some of its fields filled in.
func submit(t *testing.T, client *http.Client, at *url.URL, page []byte, fields ...string) (*http.Response, []byte) {
	t.Helper()
	_, form, _ := bytes.Cut(page, []byte(`<form method="post" action="`))
	form, _, found := bytes.Cut(form, []byte(`</form>`))
	action, _, _ := bytes.Cut(form, []byte(`"`))
	if !found {
		t.Fatalf("no form at %s:\n%s", at, page)
	}
	values := make(url.Values)
	for part := range bytes.SplitSeq(form, []byte(`<input type="hidden" name="`)) {
		name, rest, _ := bytes.Cut(part, []byte(`" value="`))
		value, _, ok := bytes.Cut(rest, []byte(`"`))
		if ok {
			values.Set(string(name), strings.ReplaceAll(string(value), "&amp;", "&"))
		}
	}
	for i := 0; i < len(fields); i += 2 {
		values.Set(fields[i], fields[i+1])
	}
	target, err := at.Parse(string(action))
	must(t, err)
	return ask(t, client, http.MethodPost, target.String(), values.Encode())
}

func ends(t *testing.T, res *http.Response, host, path string) {
	t.Helper()
	if at := res.Request.URL; res.StatusCode != http.StatusOK || at.Host != host || !strings.HasPrefix(at.RequestURI(), path) {
		t.Fatalf("%d at %s, want 200 at https://%s%s", res.StatusCode, at, host, path)
	}
}

// tells holds what a back end was told against what is true.
func tells(t *testing.T, client *http.Client, body []byte, want seen, user, amr, acr string) {
	t.Helper()
	var got seen
	must(t, json.Unmarshal(body, &got))
	if got.Method != want.Method || got.Path != want.Path || got.Body != want.Body {
		t.Errorf("the app was asked %s %s %q, want %+v", got.Method, got.Path, got.Body, want)
	}
	for name, value := range map[string]string{"Remote-User": user, "Sekisho-Amr": amr, "Sekisho-Acr": acr} {
		if !slices.Equal(got.Header[name], []string{value}) {
			t.Errorf("%s: %q, want %q alone", name, got.Header[name], value)
		}
	}
	for name := range got.Header {
		if strings.Contains(name, "_") {
			t.Errorf("the app was told %s: %q", name, got.Header[name])
		}
	}
	if cookies := strings.Join(got.Header["Cookie"], ";"); strings.Contains(cookies, session(client)) || !strings.Contains(cookies, "taste=sweet") || !strings.Contains(cookies, "size=9") {
		t.Errorf("the app got the cookies %q", cookies)
	}
}

// roads takes a user through both apps.
func (p *proxy) roads(t *testing.T, user string) {
	s, client := p.site.system, p.browser(t)
	defer func() {
		if t.Failed() {
			t.Log(p.log.String())
		}
	}()
	phone := "+8190333" + p.address[len(p.address)-5:]
	s.addUser(user, phone)
	demo, payroll := p.site.demo.asked.Load(), p.site.payroll.asked.Load()
	client.Jar.SetCookies(&url.URL{Scheme: "https", Host: "app.example.com"}, []*http.Cookie{
		{Name: "taste", Value: "sweet", Domain: "example.com", Path: "/"}, {Name: "size", Value: "9", Domain: "example.com", Path: "/"}})

	// Nobody gets to the app but through the login page, and then to the page asked for.
	res, page := ask(t, client, http.MethodGet, "https://app.example.com/page?a=b&c=%2Fd", "")
	ends(t, res, "login.example.com", "/login?app=demo&return_to=https%3A%2F%2Fapp.example.com%2Fpage%3Fa%3Db%26c%3D%252Fd")
	res, _ = ask(t, client, http.MethodPost, "https://app.example.com/page", "sum=1")
	if res.Request.URL.Host != "login.example.com" {
		t.Errorf("a form of nobody came to %s", res.Request.URL)
	}
	if n := p.site.demo.asked.Load(); n != demo {
		t.Fatalf("the app was asked %d times by nobody", n-demo)
	}
	res, body := submit(t, client, at("login.example.com"), page, "user", user, "password", userPassword, "method", "password")
	ends(t, res, "app.example.com", "/page?a=b&c=%2Fd")
	tells(t, client, body, seen{Method: "GET", Path: "/page?a=b&c=%2Fd"}, user, "pwd", "1fa")
	_, body = ask(t, client, http.MethodPost, "https://app.example.com/save", "sum=1")
	tells(t, client, body, seen{Method: "POST", Path: "/save", Body: "sum=1"}, user, "pwd", "1fa")
	if res, _ = ask(t, client, http.MethodGet, "https://app.example.com/forbidden", ""); res.StatusCode != http.StatusUnauthorized || res.Request.URL.Host != "app.example.com" {
		t.Errorf("the app's own refusal became %d at %s", res.StatusCode, res.Request.URL)
	}

	// An app under another name knows the session, and asks for one factor more.
	old := session(client)
	res, page = ask(t, client, http.MethodGet, "https://payroll.example.com/slip", "")
	ends(t, res, "login.example.com", "/login?app=payroll&return_to=https%3A%2F%2Fpayroll.example.com%2Fslip")
	if !bytes.Contains(page, []byte(user)) || bytes.Contains(page, []byte(`type="password"`)) {
		t.Errorf("the page does not step up:\n%s", page)
	}
	if n := p.site.payroll.asked.Load(); n != payroll {
		t.Fatalf("the app was asked %d times with too little", n-payroll)
	}
	res, page = submit(t, client, at("login.example.com"), page, "method", "session")
	ends(t, res, "login.example.com", "/login/")
	res, body = submit(t, client, res.Request.URL, page, "code", s.newestCode(phone))
	ends(t, res, "payroll.example.com", "/slip")
	tells(t, client, body, seen{Method: "GET", Path: "/slip"}, user, "pwd,sms", "2fa")
	_, body = ask(t, client, http.MethodGet, "https://app.example.com/", "")
	tells(t, client, body, seen{Method: "GET", Path: "/"}, user, "pwd,sms", "2fa")

	// The session that it stepped up from is over, on every road.
	if now := session(client); now == "" || now == old {
		t.Error("the session that was stepped up has no token of its own")
	}
	thief := p.browser(t)
	thief.Jar.SetCookies(at("example.com"), []*http.Cookie{{Name: "__Secure-sekisho", Value: old, Domain: "example.com", Path: "/", Secure: true}})
	poll(t, "the old session has ended", func() bool {
		res, _ := ask(t, thief, http.MethodGet, "https://app.example.com/", "")
		return res.Request.URL.Host == "login.example.com"
	})
}

func at(host string) *url.URL { return &url.URL{Scheme: "https", Host: host, Path: "/"} }

// session is the token of the browser's session.
func session(client *http.Client) string {
	for _, c := range client.Jar.Cookies(at("app.example.com")) {
		if c.Name == "__Secure-sekisho" {
			return c.Value
		}
	}
	return ""
}

// closed makes sure that nobody gets to an app while the gateway can not be asked.
func (p *proxy) closed(t *testing.T) {
	before := p.site.demo.asked.Load()
	res, _ := ask(t, p.browser(t), http.MethodGet, "https://app.example.com/page", "")
	if res.StatusCode < 500 || p.site.demo.asked.Load() != before {
		t.Errorf("status %d, and the app was asked %d times", res.StatusCode, p.site.demo.asked.Load()-before)
	}
}

// TestProxySnippetsAreWellFormed reads the snippets of the proxies that no test runs.
func TestProxySnippetsAreWellFormed(t *testing.T) {
	for _, name := range []string{"traefik.yaml", "envoy.yaml"} {
		data, err := os.ReadFile(filepath.Join(proxyDir, name))
		must(t, err)
		var document map[string]any
		if err := yaml.Unmarshal(data, &document); err != nil || len(document) == 0 {
			t.Errorf("%s: %v", name, err)
		}
		for _, header := range []string{"remote-user", "sekisho-amr", "sekisho-acr"} {
			if n := strings.Count(strings.ToLower(string(data)), header); n < 2 {
				t.Errorf("%s names %s %d times: it is both deleted and set", name, header, n)
			}
		}
	}
}
