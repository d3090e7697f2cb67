package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/sekisho/sekisho/services/internal/bus"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sekisho.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// documented are the defaults that people and acceptance checks rely on.
const documented = `
login: {deadline: 5m, denied_floor: 500ms}
code: {ttl: 5m, resend_after: 30s}
push:
  {ttl: 2m, activation: 10m, devices: 10, wrong: 3, cooldown: 10m, timeout: 3s, wait: 1s, concurrency: 64, keep: 720h, webpush: {subject: ""}, webpush_hosts: [], proxy: "",
   fcm: {url: "https://fcm.googleapis.com", project: "", key_file: ""}, mamoru: {url: "", approve_url: "", token_file: ""}}
attempts: 5
lock: {after: 5, first: 1m, max: 1h, disable_after: 50}
password: {memory: 19456, time: 2, threads: 1, min_length: 8, blocklist: ""}
phone: {region: JP}
session: {idle: 1h, absolute: 12h, fresh: 10m}
token: {look_ahead: 10, resync: 100, reset: 1h, question: 0, per_user: 5}
limits: {logins_per_source: 300, device_per_source: 3000, sms_per_user: 10, sms_per_number: 10, notices_per_user: 5, push_per_user: 10, push_per_source: 60}
risk: {static: "", url: "", collector: "", timeout: 1s, concurrency: 100, keep: 2160h}
sms: {providers: [], timeout: 3s, concurrency: 256, keep: 720h}
breaker: {failures: 5, open: 10s}
gateway: {name: web, url: "", origins: [], proxies: [], cookie_domain: "", max_body: 16384, wait: 5s, max_wait: 30s, max_poll: 60s,
          place_header: "", max_stream: 10m, streams_per_device: 3}
http: {header_timeout: 5s, read_timeout: 10s, write_timeout: 75s, idle_timeout: 2m, max_header: 16384}
bus: {gateways: [example], replicas: 1}
database: {connections: 8}
sealing: {rotate: 24h}
audit: {keep: 8760h, sweep_every: 15s, sweep_after: 1m}
shutdown: {grace: 10s}
log: {level: info}
debug: {profiles: false}
policy: ""
`

func TestDefaultsAreTheDocumentedOnes(t *testing.T) {
	got := Default()
	// A file that says all of it again changes nothing, so each of these is the default.
	said, err := Load(write(t, documented))
	if err != nil {
		t.Fatal(err)
	}
	if len(said.SMS.Providers)+len(said.Push.WebPushHosts)+len(said.Gateway.Origins)+len(said.Gateway.Proxies) > 0 {
		t.Fatal("the defaults name providers, origins or proxies")
	}
	said.SMS.Providers, said.Push.WebPushHosts, said.Gateway.Origins, said.Gateway.Proxies = nil, nil, nil, nil
	if !reflect.DeepEqual(got, said) {
		t.Errorf("defaults\n%+v\ndocumented\n%+v", got, said)
	}
}

// Every setting is in the list of defaults above, but for those that have none.
func TestNoSettingIsUndocumented(t *testing.T) {
	var keys map[string]any
	if err := yaml.Unmarshal([]byte(documented), &keys); err != nil {
		t.Fatal(err)
	}
	open := []string{"password.concurrent", "risk.signature_file"}
	var walk func(prefix string, typ reflect.Type, at map[string]any)
	walk = func(prefix string, typ reflect.Type, at map[string]any) {
		for f := range typ.Fields() {
			name := f.Tag.Get("yaml")
			if name == "" {
				t.Errorf("%s has no yaml name", f.Name)
			}
			value, ok := at[name]
			if !ok && name != "-" && !strings.Contains(strings.Join(open, " "), prefix+name) {
				t.Errorf("%s%s is not documented", prefix, name)
			}
			if f.Type.Kind() == reflect.Struct {
				inner, _ := value.(map[string]any)
				walk(prefix+name+".", f.Type, inner)
			}
		}
	}
	walk("", reflect.TypeFor[Config](), keys)
}

func TestFileChangesWhatItNames(t *testing.T) {
	c, err := Load(write(t, "attempts: 3\nlogin:\n  deadline: 90s\ngateway:\n  origins: [https://app.example.com]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Attempts != 3 || c.Login.Deadline != 90*time.Second || c.Gateway.Origins[0] != "https://app.example.com" {
		t.Errorf("got %+v", c)
	}
	if c.Login.DeniedFloor != 500*time.Millisecond || c.Code.TTL != 5*time.Minute {
		t.Error("a setting that the file does not name lost its default")
	}
}

func TestEmptyFileIsTheDefaults(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "---\n", "login:\n", "login:\n  deadline:\n", "policy: ~\n", "{}"} {
		c, err := Load(write(t, text))
		if err != nil || !reflect.DeepEqual(c, Default()) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestSettingsStandAlone sets one of several that belong together, far below or above the others' defaults.
func TestSettingsStandAlone(t *testing.T) {
	for _, text := range []string{
		"session: {absolute: 1s}", "session: {idle: 1s}", "session: {fresh: 24h}",
		"lock: {first: 2h}", "lock: {max: 1s}", "lock: {after: 100}", "lock: {disable_after: 1}",
		"code: {ttl: 10m}", "login: {deadline: 1s}", "token: {look_ahead: 0}", "token: {question: 8}", "token: {resync: 1}", "push: {ttl: 10m}", "attempts: 1",
	} {
		if _, err := Load(write(t, text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestErrorsNameLineAndKey(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "attempts: 5\nattemps: 4\n", ":2: attemps: unknown"},
		{"unknown nested key", "login:\n  deadline: 5m\n  deadlines: 5m\n", ":3: login.deadlines: unknown"},
		{"key twice", "attempts: 5\nlog: {level: info}\nattempts: 4\n", ":3: attempts:"},
		{"not a number", "attempts: many\n", ":1: attempts: many: want a whole number"},
		{"number with a unit", "gateway:\n  max_body: 1MB\n", ":2: gateway.max_body: 1MB: want a whole number"},
		{"number too large for its type", "password:\n  threads: 300\n", ":2: password.threads: 300: out of range"},
		{"negative number", "password:\n  memory: -1\n", ":2: password.memory: -1: out of range"},
		{"number of no type", "attempts: 99999999999999999999\n", ":1: attempts: 99999999999999999999: out of range"},
		{"number of a provider", "sms:\n  providers:\n    - kind: karaden\n      service_id: x\n", ":4: sms.providers[0].service_id: x: want a whole number"},
		{"neither true nor false", "debug: {profiles: 'yes'}\n", ":1: debug.profiles: yes: want true or false"},
		{"list for a text", "log:\n  level: [info]\n", ":2: log.level: [: want a text"},
		{"text for a list", "gateway:\n  origins: https://a.example\n", ":2: gateway.origins: https://a.example: string was used where sequence is expected"},
		{"not a duration", "\nlogin:\n  deadline: 5 minutes\n", ":3: login.deadline: want a time span"},
		{"duration without unit", "login:\n  deadline: 300\n", ":2: login.deadline: want a time span"},
		{"duration of another unit", "audit:\n  keep: 30d\n", ":2: audit.keep: want a time span"},
		{"duration of a long unit", "login: {denied_floor: 1s}\npush: {ttl: 5min}\n", ":2: push.ttl: want a time span"},
		{"section that is a text", "login: short\n", ":1: "},
		{"second document", "attempts: 4\n---\nattempts: 3\n", ":2: a second document"},
		{"second document that is empty", "attempts: 4\n---\n", ":2: a second document"},
		{"second document after the end of the first", "attempts: 4\n...\nattempts: 3\n", ": a second document"},
		{"not YAML", "login: [\n", "sekisho.yaml:1: "},
		{"too many attempts", "# more than there are subjects\nattempts: 6\n", ":2: attempts: 6: want 1 to 5"},
		{"no attempts", "attempts: 0\n", ":1: attempts: 0: want 1 to 5"},
		{"too long a deadline", "login:\n  denied_floor: 1s\n  deadline: 11m\n", ":3: login.deadline: 11m0s: want 1s to 10m0s"},
		{"lock that nobody notices", "lock:\n  first: 10m\n  max: 5ms\n", ":3: lock.max"},
		{"write time-out shorter than a poll", "http:\n  write_timeout: 10s\n", ":2: http.write_timeout"},
		{"weak hash", "password: {memory: 7}\n", ":1: password.memory"},
		{"origin with path", "gateway:\n  origins:\n    - https://ok.example\n    - https://a.example/app\n", ":4: gateway.origins[1]"},
		{"origin of another scheme", "gateway:\n  origins: ['null']\n", ":2: gateway.origins[0]"},
		{"origin with a query", "gateway:\n  origins: ['https://a.example?']\n", ":2: gateway.origins[0]"},
		{"origin with a user", "gateway:\n  origins: ['https://me@a.example']\n", ":2: gateway.origins[0]"},
		{"origin with two slashes", "gateway:\n  origins: ['https://a.example//']\n", ":2: gateway.origins[0]"},
		{"own origin with a path", "gateway:\n  url: https://a.example/login\n", ":2: gateway.url"},
		{"proxy that is a name", "gateway:\n  proxies: [proxy.example]\n", ":2: gateway.proxies[0]"},
		{"proxy of one interface", "gateway:\n  proxies: ['fe80::1%eth0']\n", ":2: gateway.proxies[0]"},
		{"cookie domain that is an address", "gateway:\n  cookie_domain: 192.0.2.1\n", ":2: gateway.cookie_domain"},
		{"cookie domain with an empty label", "gateway:\n  cookie_domain: .example.com\n", ":2: gateway.cookie_domain"},
		{"cookie domain that is no name", "gateway:\n  cookie_domain: exa_mple.com\n", ":2: gateway.cookie_domain"},
		{"cookie domain with a long label", "gateway:\n  cookie_domain: " + strings.Repeat("a", 64) + ".com\n", ":2: gateway.cookie_domain"},
		{"cookie domain of another host", "gateway:\n  url: https://login.example.com\n  cookie_domain: example.net\n", ":3: gateway.cookie_domain: \"example.net\": want login.example.com"},
		{"cookie domain that ends like the host", "gateway:\n  url: https://login.example.com\n  cookie_domain: ple.com\n", ":3: gateway.cookie_domain"},
		{"cookie domain with a port", "gateway:\n  cookie_domain: example.com:8080\n", ":2: gateway.cookie_domain"},
		{"name that can not be in a subject", "gateway: {name: Web.1}\n", ":1: gateway.name"},
		{"gateway that is a worker", "gateway: {name: recorder}\n", ":1: gateway.name: \"recorder\": a worker"},
		{"gateway that is a tool", "bus:\n  gateways:\n    - shop\n    - operator\n", ":4: bus.gateways[1]: \"operator\": a worker or a tool"},
		{"gateway twice", "bus: {gateways: [example, web]}\n", ":1: bus.gateways[1]"},
		{"even replicas", "bus:\n  replicas: 2\n", ":2: bus.replicas"},
		{"provider of no kind", "sms:\n  providers:\n    - {name: a, url: 'http://a', account: x, token_file: t}\n", ":3: sms.providers[0].kind"},
		{"provider without secret", "sms:\n  providers:\n    - kind: twilio\n      url: https://api.example\n      account: AC1\n      from: '+1'\n", ":3: sms.providers[0].token_file: missing"},
		{"provider twice", "sms:\n  providers:\n" + strings.Repeat("    - {kind: twilio, url: 'http://a', account: x, token_file: t, from: '1'}\n", 2), ":4: sms.providers[1].name"},
		{"password in a URL", "risk:\n  url: https://user:secret@risk.example\n  signature_file: s\n", ":2: risk.url"},
		{"collector that is a path", "risk: {collector: /collect.js}\n", ":1: risk.collector"},
		{"static verdict that denies everybody", "risk:\n  static: NG\n", ":2: risk.static"},
		{"static verdict beside a provider", "risk: {static: OK, url: 'http://a', signature_file: s}\n", ":1: risk.static"},
		{"discard beside a provider", "sms:\n  providers:\n    - {kind: twilio, url: 'http://a', account: x, token_file: t, from: '1'}\n    - kind: discard\n", ":4: sms.providers[1].kind"},
		{"more wrong numbers than answers", "push: {wrong: 6}\n", ":1: push.wrong: 6: want 1 to 5"},
		{"contact of Web Push that is no URL", "push:\n  webpush:\n    subject: admin@example.com\n", ":3: push.webpush.subject"},
		{"host of Web Push that is a URL", "push:\n  webpush_hosts:\n    - push.apple.com\n    - https://fcm.googleapis.com\n", ":4: push.webpush_hosts[1]"},
		{"proxy with a secret", "push: {proxy: \"http://user:secret@egress.example.com\"}\n", ":1: push.proxy"},
		{"host of Web Push in capitals", "push: {webpush_hosts: [Push.apple.com]}\n", ":1: push.webpush_hosts[0]"},
		{"FCM without a key", "push:\n  fcm:\n    project: p\n", ":3: push.fcm.key_file: missing"},
		{"FCM without a URL", "push:\n  fcm: {project: p, key_file: k, url: ''}\n", ":2: push.fcm.url"},
		{"Mamoru without a secret", "push:\n  mamoru: {url: 'https://mamoru.example'}\n", ":2: push.mamoru.token_file: missing"},
		{"page of Mamoru that is no URL", "push:\n  mamoru: {url: 'https://mamoru.example', token_file: t, approve_url: approve}\n", ":2: push.mamoru.approve_url"},
		{"look-ahead that finds guesses", "token: {look_ahead: 101}\n", ":1: token.look_ahead: 101: want 0 to 100"},
		{"resynchronization that looks nowhere", "token:\n  resync: 0\n", ":2: token.resync: 0: want 1 to 1000"},
		{"question that is easily asked twice", "token:\n  per_user: 1\n  question: 3\n", ":3: token.question: 3: want 8 to 10"},
		{"question too long to type", "token: {question: 11}\n", ":1: token.question: 11: want 8 to 10"},
		{"no tokens", "token: {per_user: 0}\n", ":1: token.per_user: 0: want 1 to 20"},
		{"fraction", "code: {}\nlock:\n  after: 3.5\n", ":3: lock.after: 3.5: want a whole number"},
		{"level", "log: {level: loud}\n", ":1: log.level"},
		{"region", "phone: {region: Japan}\n", ":1: phone.region"},
		{"region without numbers", "phone: {region: XX}\n", ":1: phone.region"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(write(t, c.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "sekisho.yaml") {
				t.Errorf("error %q, want the file and %q", err, c.want)
			}
			if strings.Contains(err.Error(), "secret") && c.name == "password in a URL" {
				t.Errorf("the error tells the secret: %v", err)
			}
		})
	}
}

// A time span of a wrong type is said in the file's words.
func TestTimeSpans(t *testing.T) {
	for text, want := range map[string]string{
		"login:\n  denied_floor: 5\n":   `:2: `,
		"login: {denied_floor: 0}":      `:1: `,
		"\nlogin: {denied_floor: true}": `:2: `,
	} {
		_, err := Load(write(t, text))
		if err == nil || !strings.Contains(err.Error(), "sekisho.yaml"+want) || !strings.Contains(err.Error(), "want a time span such as 5m or 0s") || strings.Contains(err.Error(), "time.Duration") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// Every time span that can not be read is reported, and no other for whose bound it stands.
func TestEveryTimeSpanIsRead(t *testing.T) {
	var text strings.Builder
	var want []string
	for section := range reflect.TypeFor[Config]().Fields() {
		if section.Type.Kind() != reflect.Struct {
			continue
		}
		lines := ""
		for f := range section.Type.Fields() {
			if f.Type == reflect.TypeFor[time.Duration]() {
				lines += "  " + f.Tag.Get("yaml") + ": soon\n"
				want = append(want, section.Tag.Get("yaml")+"."+f.Tag.Get("yaml")+": want a time span such as 5m or 0s")
			}
		}
		if lines != "" {
			text.WriteString(section.Tag.Get("yaml") + ":\n" + lines)
		}
	}
	_, err := Load(write(t, text.String()))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v\nlacks %q", err, w)
		}
	}
	if lines := strings.Count(err.Error(), "\n") + 1; lines != len(want) {
		t.Errorf("%d faults of %d time spans:\n%v", lines, len(want), err)
	}
	if _, err := Load(write(t, "gateway: {max_wait: soon}\n")); err == nil || strings.Contains(err.Error(), "gateway.wait") {
		t.Errorf("bound of another: %v", err)
	}
}

// What browsers take is taken, in capitals too.
func TestCookieDomain(t *testing.T) {
	for domain, origin := range map[string]string{
		"example.com": "https://login.example.com", "Example.COM": "https://example.com:8443", "login.example.com": "https://LOGIN.example.com",
		"localhost": "http://localhost:8080", "xn--eckwd4c7c.jp": "",
	} {
		c, err := Load(write(t, fmt.Sprintf("gateway: {url: %q, cookie_domain: %q}\n", origin, domain)))
		if err != nil || c.Gateway.CookieDomain != strings.ToLower(domain) {
			t.Errorf("%s for %s: %v", domain, origin, err)
		}
	}
}

// A gateway of the name of anybody else on the bus would share its seed.
func TestGatewaysHaveNamesOfTheirOwn(t *testing.T) {
	for _, u := range bus.Users(nil) {
		if _, err := Load(write(t, "bus: {gateways: ["+u.Name+"]}\n")); err == nil || !strings.Contains(err.Error(), ":1: bus.gateways[0]") {
			t.Errorf("%s: %v", u.Name, err)
		}
	}
}

// Origins and proxies are taken as people paste them, and kept as they are compared.
func TestOriginsAndProxiesAreNormalized(t *testing.T) {
	c, err := Load(write(t, `
gateway:
  url: HTTPS://Login.Example.com:443/
  origins: ["https://App.example.com/", "http://a.example:80", "https://a.example:80", "http://[::1]:8080/", "https://a.example:8443"]
  proxies: ["127.0.0.1", "2001:DB8::1", "::ffff:192.0.2.1", 10.0.0.0/8]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Gateway{
		URL:     "https://login.example.com",
		Origins: []string{"https://app.example.com", "http://a.example", "https://a.example:80", "http://[::1]:8080", "https://a.example:8443"},
		Proxies: []string{"127.0.0.1/32", "2001:db8::1/128", "192.0.2.1/32", "10.0.0.0/8"},
	}
	if g := c.Gateway; g.URL != want.URL || !reflect.DeepEqual(g.Origins, want.Origins) || !reflect.DeepEqual(g.Proxies, want.Proxies) {
		t.Errorf("got %q, %q, %q", g.URL, g.Origins, g.Proxies)
	}
}

func TestEveryProblemIsReported(t *testing.T) {
	_, err := Load(write(t, "attempts: 9\nlog:\n  level: x\n"))
	if err == nil || !strings.Contains(err.Error(), ":1: attempts") || !strings.Contains(err.Error(), ":3: log.level") {
		t.Errorf("got %v", err)
	}
}

func TestSecretFilesCountFromTheirFile(t *testing.T) {
	path := write(t, `
policy: policy.yaml
risk: {url: "https://risk.example", signature_file: secrets/risk}
sms: {providers: [{kind: karaden, url: "https://sms.example/api", account: t1, service_id: 1, token_file: /etc/karaden}]}
push: {fcm: {project: p, key_file: secrets/fcm.json}, mamoru: {url: "https://mamoru.example", token_file: secrets/mamoru}}
`)
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(path)
	if c.Policy != filepath.Join(dir, "policy.yaml") || c.Risk.SignatureFile != filepath.Join(dir, "secrets/risk") {
		t.Errorf("got %q and %q", c.Policy, c.Risk.SignatureFile)
	}
	if c.Push.FCM.KeyFile != filepath.Join(dir, "secrets/fcm.json") || c.Push.Mamoru.TokenFile != filepath.Join(dir, "secrets/mamoru") {
		t.Errorf("got %+v and %+v", c.Push.FCM, c.Push.Mamoru)
	}
	if p := c.SMS.Providers[0]; p.TokenFile != "/etc/karaden" || p.Name != "karaden" {
		t.Errorf("got %+v", p)
	}
}

func TestFillProviders(t *testing.T) {
	const file = `
risk: {url: "http://127.0.0.1:1/omotion", signature_file: risk.secret}
sms: {providers: [{kind: twilio, url: "http://127.0.0.1:1/twilio", account: AC1, from: "+1", token_file: twilio.token}]}
push:
  webpush: {subject: "mailto:push@example.com"}
  webpush_hosts: ["127.0.0.1:1"]
  fcm: {url: "http://127.0.0.1:1/fcm", project: p, key_file: fcm.json}
  mamoru: {url: "http://127.0.0.1:1/mamoru", token_file: mamoru.token}
`
	path := write(t, file)
	c := Default()
	if err := c.FillProviders(path); err != nil {
		t.Fatal(err)
	}
	if c.Risk.URL != "http://127.0.0.1:1/omotion" || c.Risk.SignatureFile != filepath.Join(filepath.Dir(path), "risk.secret") ||
		len(c.SMS.Providers) != 1 || c.SMS.Providers[0].Name != "twilio" {
		t.Errorf("got %+v %+v", c.Risk, c.SMS)
	}
	if p := c.Push; p.WebPush.Subject != "mailto:push@example.com" || len(p.WebPushHosts) != 1 || p.FCM.Project != "p" ||
		p.FCM.KeyFile != filepath.Join(filepath.Dir(path), "fcm.json") || p.Mamoru.TokenFile != filepath.Join(filepath.Dir(path), "mamoru.token") {
		t.Errorf("got %+v", p)
	}
	if c.Risk.Timeout != time.Second || c.Push.TTL != 2*time.Minute {
		t.Error("settings that are not of a provider changed")
	}

	named := Default()
	named.Push.FCM = FCM{URL: "https://fcm.example", Project: "mine", KeyFile: "/k"}
	named.Risk = Risk{URL: "https://risk.example", SignatureFile: "/s", Timeout: time.Second}
	if err := named.FillProviders(path); err != nil {
		t.Fatal(err)
	}
	if named.Risk.URL != "https://risk.example" || named.Risk.SignatureFile != "/s" || len(named.SMS.Providers) != 1 ||
		named.Push.FCM.Project != "mine" || named.Push.Mamoru.URL != "" || named.Push.WebPush.Subject != "" {
		t.Error("a provider of the configuration was replaced, or the other kind was not filled in")
	}

	if err := Default().FillProviders(path + ".missing"); err != nil {
		t.Errorf("missing file: %v", err)
	}
	if err := Default().FillProviders(write(t, "sms:\n  provider: []\n")); err == nil || !strings.Contains(err.Error(), ":2: sms.provider:") {
		t.Errorf("unknown key: %v", err)
	}
	if err := Default().FillProviders(write(t, "risk:\n  url: ftp://x\n")); err == nil || !strings.Contains(err.Error(), ":2: risk.url") {
		t.Errorf("bad URL: %v", err)
	}
}

func TestEnvironment(t *testing.T) {
	set := map[string]string{"SEKISHO_DATA_DIR": "data"}
	e, err := ReadEnvironment(func(name string) string { return set[name] })
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(e.DataDir) || filepath.Base(e.DataDir) != "data" || e.CredentialsDir != filepath.Join(e.DataDir, "credentials") {
		t.Errorf("got %+v", e)
	}
	// Each variable has a field of its own.
	var asked []string
	e, err = ReadEnvironment(func(name string) string { asked = append(asked, name); return "/" + name })
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("%+v", e)
	for _, name := range asked {
		if strings.Count(text, "/"+name) != 1 {
			t.Errorf("%s is in the environment %d times", name, strings.Count(text, "/"+name))
		}
	}
	if len(asked) != reflect.TypeFor[Environment]().NumField() {
		t.Errorf("%d variables, %d fields", len(asked), reflect.TypeFor[Environment]().NumField())
	}
}

func TestAdminToken(t *testing.T) {
	e := Environment{DataDir: t.TempDir()}
	if token, err := e.ReadAdminToken(); err != nil || token != "" {
		t.Errorf("without a file: %q, %v", token, err)
	}
	if err := os.WriteFile(filepath.Join(e.DataDir, "admin-token"), []byte("kept\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if token, err := e.ReadAdminToken(); err != nil || token != "kept" {
		t.Errorf("kept: %q, %v", token, err)
	}
	e.AdminToken = "given"
	if token, err := e.ReadAdminToken(); err != nil || token != "given" {
		t.Errorf("given: %q, %v", token, err)
	}
}
