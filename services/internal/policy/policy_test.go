package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/events"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestBuiltInPolicy(t *testing.T) {
	p, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	demo := p.Apps["demo"]
	if demo == nil || !demo.Accepts(events.Password) || !demo.Accepts(events.None) || demo.PushTap {
		t.Fatalf("app demo: %+v", demo)
	}
	for _, test := range []struct {
		assessed events.Assessed
		want     Need
	}{
		{events.Assessed{Verdict: events.OK}, 1},
		{events.Assessed{Verdict: events.Review}, 2},
		{events.Assessed{Verdict: events.NG}, Deny},
		{events.Assessed{Verdict: events.OK, Degraded: true}, 2},
		{events.Assessed{Verdict: "SOMETHING"}, Deny},
	} {
		if got := demo.Need(&test.assessed); got != test.want {
			t.Errorf("need of %+v is %v, want %v", test.assessed, got, test.want)
		}
	}
	for _, f := range demo.Allowed(0) {
		if f == events.SMS {
			t.Error("an outsider who types a name makes us send a text message")
		}
	}
	if demo.Name.In("ja") == demo.Name.In("en") || demo.Name.In("fr") != demo.Name.EN {
		t.Errorf("names: %+v", demo.Name)
	}
	deployed, err := Load(filepath.Join("..", "..", "..", "deploy", "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if deployed.Hash() != p.Hash() {
		t.Error("deploy/policy.yaml is not the built-in policy")
	}
}

func TestUnavailableRiskProvider(t *testing.T) {
	degraded := &events.Assessed{Verdict: events.Review, Degraded: true}
	for way, want := range map[Unavailable]Need{StepUp: 3, Allow: 1, DenyUnavailable: Deny, "": Deny} {
		a := &App{OnOK: 1, OnReview: 3, OnNG: Deny, OnUnavailable: way}
		if got := a.Need(degraded); got != want {
			t.Errorf("%q: need %v, want %v", way, got, want)
		}
	}
}

func TestDefaultsAreTheCarefulChoice(t *testing.T) {
	p, err := parse("test", []byte("apps:\n  wiki:\n    factors: [sms, token]\n"))
	if err != nil {
		t.Fatal(err)
	}
	a := p.Apps["wiki"]
	if a.Accepts(events.None) || !a.Accepts(events.Password) || a.OnOK != 1 || a.OnReview != 2 || a.OnNG != Deny || a.OnUnavailable != StepUp {
		t.Errorf("%+v", a)
	}
	if len(a.PasswordlessFactors) != 1 || a.PasswordlessFactors[0] != events.Token {
		t.Errorf("passwordless factors %v, want token: of [push, token] what the app accepts", a.PasswordlessFactors)
	}
	if a.Name.In("ja") != "wiki" || a.Name.In("en") != "wiki" {
		t.Errorf("names: %+v", a.Name)
	}
}

// What was shown elsewhere counts as far as the app would have accepted it, and in that order.
func TestWhatCountsOfASession(t *testing.T) {
	p, err := parse("test", []byte(`apps:
  both: {methods: [password, none], factors: [push, sms, token]}
  tokens: {methods: [password], factors: [token]}
  passwordless: {methods: [none], factors: [sms, token], on_review: 1}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ app, shown, want string }{
		{"both", "", ""},
		{"both", "pwd", "pwd"},
		{"both", "pwd sms", "pwd sms"},
		{"both", "sms", ""}, // a text message is no first proof
		{"both", "sms swk", "swk"},
		{"both", "swk sms", "swk sms"},
		{"both", "pwd pwd otp otp", "pwd otp"},
		{"both", "pwd mfa", "pwd"},
		{"tokens", "pwd sms", "pwd"},
		{"passwordless", "pwd sms", ""},
		{"passwordless", "pwd otp sms", "otp sms"},
	} {
		if got := strings.Join(p.Apps[test.app].Counted(strings.Fields(test.shown)), " "); got != test.want {
			t.Errorf("%s of %q: %q, want %q", test.app, test.shown, got, test.want)
		}
	}
}

func TestReach(t *testing.T) {
	p, err := parse("test", []byte(`apps:
  both: {methods: [password, none]}
  password: {factors: [push]}
  passwordless: {methods: [none], factors: [sms, push], passwordless_factors: [push]}
  off: {on_ok: deny, on_review: deny}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		app      string
		password bool
		factors  []events.Factor
		want     int
	}{
		{"both", true, nil, 1},
		{"both", true, []events.Factor{events.SMS}, 2},
		{"both", true, []events.Factor{events.SMS, events.Push}, 3},
		{"both", false, []events.Factor{events.SMS, events.Push}, 2},
		{"both", false, []events.Factor{events.SMS}, 0}, // a text message is no first proof
		{"password", true, []events.Factor{events.SMS}, 1},
		{"password", false, []events.Factor{events.SMS, events.Push}, 0},
		{"passwordless", true, []events.Factor{events.SMS, events.Push}, 2},
		{"passwordless", true, []events.Factor{events.Push}, 1},
		{"off", true, []events.Factor{events.SMS}, 0},
	} {
		if got := p.Apps[test.app].Reach(test.password, test.factors); got != test.want {
			t.Errorf("%s by who has %v and a password %v: %d, want %d", test.app, test.factors, test.password, got, test.want)
		}
	}
}

func TestAgeOfSessions(t *testing.T) {
	p, err := parse("test", []byte("apps:\n  short: {session_max_age: 1h}\n  never: {session_max_age: 0s}\n  careful: {on_ok: 1}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for app, want := range map[string]time.Duration{"short": time.Hour, "never": 0, "careful": 12 * time.Hour} {
		if a := p.Apps[app]; a.Honors(want) || want > 0 && !a.Honors(want-1) {
			t.Errorf("%s honors sessions for %v, want %v", app, a.SessionMaxAge, want)
		}
	}
}

func TestFaultsNameTheLine(t *testing.T) {
	for _, test := range []struct{ name, file, want string }{
		{"empty file", "", "apps: missing"},
		{"no apps", "apps: {}\n", "test:1: apps: missing"},
		{"empty app", "apps:\n  demo:\n", "test:2: apps.demo: empty"},
		{"not YAML", "apps:\n  demo: [\n", "test:2"},
		{"long name", "apps:\n  demo:\n    methods: [password]\n    factors: [sms]\n    name: {en: " + strings.Repeat("a", 257) + "}\n", "test:5: apps.demo.name"},
		{"unknown key", "apps:\n  demo:\n    methods: [password]\n    on_okay: 1\n", "test:4: apps.demo.on_okay: unknown"},
		{"unknown top key", "app:\n  demo:\n", "test:1: app"},
		{"key twice", "apps:\n  demo:\n    on_ok: 1\n    on_ok: 2\n", "test:4: on_ok"},
		{"app twice", "apps:\n  demo: {on_ok: 1}\n  demo: {on_ok: 1}\n", "test:3: demo"},
		{"wrong type", "apps:\n  demo:\n    methods: 7\n", "test:3: apps.demo.methods: 7: "},
		{"neither true nor false", "apps:\n  demo:\n    push_tap: \"yes\"\n", "test:3: apps.demo.push_tap: yes: want true or false"},
		{"name of no language", "apps:\n  demo:\n    name: Demo\n", "test:3: apps.demo.name: Demo: "},
		{"list of ages", "apps:\n  demo:\n    session_max_age: [1h]\n", "test:3: apps.demo.session_max_age: [: want a text"},
		{"age of another unit", "apps:\n  demo:\n    session_max_age: 30d\n", "test:3: apps.demo.session_max_age: want a time span"},
		{"second document", "apps:\n  demo: {on_ok: 1}\n---\napps:\n  other: {on_ok: 1}\n", "test:3: a second document"},
		{"nothing but a comment", "# soon\n", "apps: missing"},
		{"unknown method", "apps:\n  demo:\n    methods: [magic]\n", `test:3: apps.demo.methods: "magic"`},
		{"no method", "apps:\n  demo:\n    methods: []\n", "test:3: apps.demo.methods: empty"},
		{"unknown factor", "apps:\n  demo:\n    factors: [sms, pigeon]\n", `test:3: apps.demo.factors: "pigeon"`},
		{"factor twice", "apps:\n  demo:\n    factors: [sms, sms]\n", `test:3: apps.demo.factors: "sms" stands twice`},
		{"passwordless factor of another app", "apps:\n  demo:\n    factors: [sms]\n    passwordless_factors: [push]\n", "test:4: apps.demo.passwordless_factors"},
		{"no first proof", "apps:\n  demo:\n    methods: [none]\n    factors: [sms]\n    on_review: 1\n", "apps.demo.passwordless_factors: empty"},
		{"no factor at all", "apps:\n  demo:\n    on_ok: 0\n", "test:3: apps.demo.on_ok: want a number"},
		{"negative", "apps:\n  demo:\n    on_ok: -1\n", "test:3: apps.demo.on_ok: want a number"},
		{"fraction", "apps:\n  demo:\n    on_ok: 1.5\n", "test:3: apps.demo.on_ok: want a number"},
		{"four factors", "apps:\n  demo:\n    on_ok: 4\n", "test:3: apps.demo.on_ok: want a number"},
		{"a word", "apps:\n  demo:\n    on_ng: allow\n", "test:3: apps.demo.on_ng: want a number"},
		{"a need that nobody meets", "apps:\n  demo:\n    factors: [sms]\n    on_review: 3\n", "test:4: apps.demo.on_review: asks for 3 factors"},
		{"less for a higher risk", "apps:\n  demo:\n    on_ok: 2\n    on_review: 1\n", "test:4: apps.demo.on_review: 1 asks for less"},
		{"NG let in easily", "apps:\n  demo:\n    on_review: deny\n    on_ng: 3\n", "test:4: apps.demo.on_ng: 3 asks for less"},
		{"negative age", "apps:\n  demo:\n    session_max_age: -1h\n", "test:3: apps.demo.session_max_age: want a time span"},
		{"no age", "apps:\n  demo:\n    session_max_age: soon\n", "test:3: apps.demo.session_max_age: want a time span"},
		{"unknown way", "apps:\n  demo:\n    on_unavailable: pray\n", `test:3: apps.demo.on_unavailable: "pray"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := parse("test", []byte(test.file))
			if err == nil {
				t.Fatalf("accepted as %+v", p.Apps)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q\nshould say %q", err, test.want)
			}
		})
	}
}

func TestAllFaultsAreReportedAtOnce(t *testing.T) {
	_, err := parse("test", []byte("apps:\n  a:\n    on_ok: 9\n  b:\n    methods: [magic]\n    on_unavailable: pray\n"))
	for _, want := range []string{"test:3:", "test:5:", "test:6:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v\nshould have %s", err, want)
		}
	}
}

func TestHashIsOfWhatThePolicySays(t *testing.T) {
	hash := func(text string) string {
		t.Helper()
		p, err := parse("test", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return p.Hash()
	}
	plain := hash("apps:\n  demo:\n    on_ok: 1\n    methods: [password]\n")
	if len(plain) != 32 {
		t.Errorf("hash %q", plain)
	}
	if again := hash("# a comment\napps: {demo: {methods: [password], on_ok: 1, on_ng: deny}}\n"); again != plain {
		t.Error("the same policy in another layout has another hash")
	}
	for _, other := range []string{
		"apps:\n  demo:\n    on_ok: 2\n",
		"apps:\n  demo:\n    on_review: 3\n",
		"apps:\n  demo:\n    on_unavailable: deny\n",
		"apps:\n  demo:\n    factors: [sms, push, token]\n",
		"apps:\n  demo:\n    session_max_age: 1h\n",
		"apps:\n  demo2:\n    on_ok: 1\n",
	} {
		if hash(other) == plain {
			t.Errorf("another policy has the same hash: %s", other)
		}
	}
}

func TestReloadKeepsTheOldPolicyWhenTheFileIsBad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, "apps:\n  demo:\n    on_ok: 1\n")
	store, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	old := store.Policy()

	write(t, path, "apps:\n  demo:\n    on_ok: 0\n")
	if err := store.Reload(); err == nil || !strings.Contains(err.Error(), path+":3:") {
		t.Errorf("reload of a bad file: %v", err)
	}
	if store.Policy() != old {
		t.Error("a bad file replaced the policy")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := store.Reload(); err == nil || store.Policy() != old {
		t.Errorf("reload of a missing file: %v", err)
	}

	write(t, path, "apps:\n  demo:\n    on_ok: 2\n")
	if err := store.Reload(); err != nil || store.Policy().Apps["demo"].OnOK != 2 {
		t.Errorf("reload of a good file: %v, %+v", err, store.Policy().Apps["demo"])
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none.yaml")); err == nil {
		t.Error("opened a policy that is not there")
	}
}
