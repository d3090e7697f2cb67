package e2e

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/oath"
)

// Nothing secret and nothing personal is in the logs, on the bus, in dead letters, in metrics or in the audit log, in any
// of the encodings in which it might hide there. What is a token's is not in the directory either, except sealed.
func TestCanaries(t *testing.T) {
	s := start(t, cheap+"gateway: {proxies: [127.0.0.1/32], place_header: X-Place}\nlog: {level: debug}\nbreaker: {failures: 100}\n")
	const (
		user, password, phone = "canary.kestrel", "Canary-Passw0rd-93b1", "+819055501234"
		ip, agent             = "203.0.113.77", "CanaryBrowser/77.1"
		place, phoneName      = "Kestrelton", "Canary's Pixel 9"
		wrongPassword         = "Canary-Wrong-55aa"
		serial, seed, pin     = "CANARY-T0K3N-8842", "Canary-Seed-93b1-17c", "58204917"
	)
	if status := s.admin(http.MethodPost, "/users", map[string]any{"user": user, "password": password, "phone": phone, "primary": "password"}, nil); status != http.StatusCreated {
		t.Fatal("add user:", status)
	}
	s.risk(user, "REVIEW")
	canaries := map[string]string{"user": user, "password": password, "phone": phone, "national phone": "09055501234", "IP": ip, "user agent": agent,
		"place": place, "phone's name": phoneName,
		"wrong password": wrongPassword, "admin token": s.adminToken, "demo password": s.Password}
	for _, file := range []string{"setup.nk", "web.nk", "smsdispatcher.nk"} {
		canaries[file] = s.secret(filepath.Join("credentials", file))
	}
	at, err := url.Parse(s.Postgres)
	must(t, err)
	canaries["database password"], _ = at.User.Password()

	setup := s.dial(bus.UserSetup)
	heard, err := setup.SubscribeSync(">")
	must(t, err)
	must(t, setup.Flush())

	// A road with everything in it: from behind a proxy, with a wrong password, faults of every provider, a wrong and a right
	// code; then one with a phone, and a wrong and a right number.
	header := http.Header{"X-Forwarded-For": {ip}, "X-Place": {place}, "Content-Type": {"application/json"},
		"User-Agent": {"Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:142.0) Gecko/20100101 Firefox/142.0 " + agent}}
	begin := func(password string) (l login) {
		t.Helper()
		body := fmt.Sprintf(`{"user":%q,"method":"password","password":%q,"app":"demo","tokens":true,"wait":"20s"}`, user, password)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.HTTP+"/v1/logins", strings.NewReader(body))
		must(t, err)
		req.Header = header.Clone()
		status, answer := s.do(req)
		if status != http.StatusCreated {
			t.Fatalf("start: %d %s", status, answer)
		}
		must(t, json.Unmarshal(answer, &l))
		return l
	}
	begin(wrongPassword)
	for _, mode := range []string{"error", "reset", "garbage"} {
		s.fault("sms", mode)
		s.fault("risk", mode)
		begin(password)
	}
	s.fault("sms", "none")
	s.fault("risk", "none")
	l := begin(password)
	code := s.newestCode(phone)
	s.answer(l, wrong(code))
	_, now := s.answer(l, code)
	if now = s.untilStatus(l, "granted"); now.SessionToken == "" {
		t.Fatal("no session token")
	}
	canaries["login token"], canaries["session token"] = l.LoginToken, now.SessionToken
	for _, m := range s.messages(phone) {
		canaries["code "+m.Provider+fmt.Sprint(len(canaries))] = m.code()
	}

	// A token, from a file in which a line is wrong to the login.
	s.importTokens("text/csv", fmt.Sprintf("%s, %x, HOTP, 8\n%x, %s, HOTP\n", serial, seed, seed, serial), 1)
	s.admin(http.MethodPost, "/tokens/"+serial+"/assign", map[string]any{"user": user}, nil)
	s.admin(http.MethodPost, "/tokens/"+serial+"/pin", map[string]any{"pin": pin}, nil)
	keyring := &token{t: t, s: s, serial: serial, Token: oath.Token{Algorithm: oath.HOTP, Hash: oath.SHA1, Digits: 8, Secret: []byte(seed)}}
	codes := []string{keyring.press(""), keyring.press(""), keyring.press(""), keyring.press("")}
	s.admin(http.MethodPost, "/tokens/"+serial+"/resync", map[string]any{"codes": codes[:2]}, nil)
	l = s.choose(begin(password), "token")
	for _, typed := range []string{wrong(pin) + codes[2], pin + wrong(codes[2]), pin + codes[2]} {
		s.answer(l, typed)
	}
	s.untilStatus(l, "granted")
	s.challenged(s.byToken(user, pin+codes[3]), "sms")
	s.admin(http.MethodGet, "/tokens?q="+serial, nil, nil)
	s.admin(http.MethodPost, "/tokens/"+serial+"/disable", nil, nil)
	ofToken := map[string]string{"seed": seed, "seed in base32": base32.StdEncoding.EncodeToString([]byte(seed)), "PIN": pin}
	for i, code := range codes {
		ofToken[fmt.Sprint("code of token ", i)], ofToken[fmt.Sprint("PIN and code ", i)] = code, pin+code
	}
	maps.Copy(canaries, ofToken)
	canaries["serial number"] = serial

	activation, device := s.invite(user), s.phone()
	device.enroll(activation, phoneName)
	canaries["activation"] = activation
	canaries["push endpoint"] = path.Base(device.subscribe(s, user, "webpush"))
	for _, mode := range []string{"error", "reset", "garbage", "none"} {
		s.fault("push", mode)
		l = s.challenged(begin(password), "push")
		canaries["number of push "+mode] = l.Challenge.Number
	}
	asked := device.asked(loginOf(l))
	if asked.Place != place+" ("+ip+")" || asked.Browser == "" {
		t.Fatalf("asked %+v", asked)
	}
	canaries["browser"] = asked.Browser
	device.decide(asked, "approve", another(l.Challenge.Number))
	device.decide(asked, "approve", l.Challenge.Number)
	s.untilStatus(l, "granted")

	s.call(http.MethodGet, s.HTTP+"/v1/session", now.SessionToken, nil, nil)
	s.raw(http.MethodGet, s.HTTP+"/v1/session?user="+user, now.SessionToken+"x", nil)
	s.raw(http.MethodGet, s.HTTP+"/v1/logins/"+url.PathEscape(user), "", nil)
	s.admin(http.MethodGet, "/users?q="+user, nil, nil)
	s.admin(http.MethodPost, "/users/"+user+"/lock", nil, nil)

	// Dead letters: sealed fields that can not be opened, and an event that is not one.
	must(t, setup.Publish("login.requested.example.0199a4c1-7d3e-7bbb-8a52-1f0e5d3c2b1a", []byte("{")))
	must(t, setup.Flush())
	js, err := jetstream.New(setup)
	must(t, err)
	stream := func(name string) jetstream.Stream {
		t.Helper()
		found, err := js.Stream(t.Context(), name)
		must(t, err)
		return found
	}
	dead := stream("DEAD")
	poll(t, "a dead letter", func() bool {
		info, err := dead.Info(t.Context())
		return err == nil && info.State.Msgs > 0
	})
	db, err := pgx.Connect(t.Context(), s.Postgres)
	must(t, err)
	defer db.Close(t.Context())
	poll(t, "audited", func() bool {
		var closed int
		must(t, db.QueryRow(t.Context(), "SELECT count(*) FROM audit.logins WHERE outcome = 'granted'").Scan(&closed))
		return closed == 3
	})

	places := map[string][]byte{"log": []byte(s.log.String())}
	_, places["metrics"] = s.raw(http.MethodGet, s.Ops+"/metrics", "", nil)
	places["bus"] = dumpHeard(t, heard)
	for _, name := range []string{"LOGIN", "TIMER", "ARCHIVE", "ACCOUNT", "SESSION", "KEYS", "DEAD", "REDO"} {
		places["stream "+name] = dump(t, stream(name))
	}
	for _, schema := range []string{"audit", "sms", "sessions"} {
		places["schema "+schema] = s.dumpSchema(db, schema)
	}
	if len(places["log"]) < 1000 || len(places["stream LOGIN"]) < 1000 || len(places["schema audit"]) < 1000 {
		t.Fatal("there is too little to look at")
	}
	for _, where := range []string{"log", "bus", "stream LOGIN", "stream ARCHIVE", "schema audit"} {
		if hiding(l.ID).Find(places[where]) == nil {
			t.Fatalf("the login itself is not found in %s", where)
		}
	}
	directory := s.dumpSchema(db, "directory")
	if !bytes.Contains(directory, []byte(serial)) {
		t.Fatal("the token itself is not found in the directory")
	}
	for what, secret := range ofToken {
		if found := hiding(secret).Find(directory); found != nil {
			t.Errorf("%s is in the directory: %q", what, around(directory, found))
		}
	}
	for what, secret := range canaries {
		pattern := hiding(secret)
		for where, data := range places {
			if found := pattern.Find(data); found != nil {
				t.Errorf("%s is in %s: %q", what, where, around(data, found))
			}
		}
	}
}

// hiding matches a secret in clear, in hex, percent-encoded, and in base64 wherever it starts.
func hiding(secret string) *regexp.Regexp {
	if len(secret) <= 8 && strings.Trim(secret, "0123456789") == "" { // a code or a PIN: digits that stand alone
		return regexp.MustCompile(`(^|[^0-9A-Za-z.:+-])` + secret + `($|[^0-9A-Za-z.:+-])`)
	}
	forms := []string{secret, url.QueryEscape(secret), hex.EncodeToString([]byte(secret))}
	for shift := range 3 {
		encoded := base64.StdEncoding.EncodeToString(append(bytes.Repeat([]byte{'x'}, shift), secret...))
		// The first and the last group mix with what stands beside the secret.
		encoded = strings.TrimRight(encoded, "=")
		forms = append(forms, encoded[4:len(encoded)-4])
	}
	for i, f := range forms {
		forms[i] = regexp.QuoteMeta(f)
	}
	for _, f := range slices.Clone(forms[3:]) { // base64url
		forms = append(forms, strings.NewReplacer(`\+`, "-", "/", "_").Replace(f))
	}
	return regexp.MustCompile("(?i:" + strings.Join(forms[:3], "|") + ")|" + strings.Join(forms[3:], "|"))
}

// The search finds what it is to find, else the test above would prove nothing.
func TestHiding(t *testing.T) {
	const secret = "canary.kestrel+1@x"
	for shift := range 3 {
		text := strings.Repeat("x", shift) + secret + strings.Repeat("y", shift)
		for _, form := range []string{text, "=" + hex.EncodeToString([]byte(text)), url.QueryEscape(text), strings.ToUpper(text),
			base64.StdEncoding.EncodeToString([]byte(text)), base64.RawURLEncoding.EncodeToString([]byte(text))} {
			if !hiding(secret).MatchString(form) {
				t.Errorf("not found in %q", form)
			}
		}
	}
	for form, found := range map[string]bool{`"code":"123456"`: true, "code 123456": true, "0.123456": false, "01234567": false} {
		if hiding("123456").MatchString(form) != found {
			t.Errorf("found in %q: %v, want %v", form, !found, found)
		}
	}
}

func around(data, found []byte) []byte {
	i := bytes.Index(data, found)
	return data[max(0, i-80):min(len(data), i+len(found)+80)]
}

// dump is everything in a stream: subjects, headers and data.
func dump(t *testing.T, stream jetstream.Stream) []byte {
	t.Helper()
	info, err := stream.Info(t.Context())
	must(t, err)
	var b bytes.Buffer
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq && seq > 0; seq++ {
		if msg, err := stream.GetMsg(t.Context(), seq); err == nil {
			fmt.Fprintf(&b, "%s\n%v\n%s\n", msg.Subject, msg.Header, msg.Data)
		}
	}
	return b.Bytes()
}

// dumpHeard is everything that a subscription has heard so far: what no stream keeps too.
func dumpHeard(t *testing.T, heard *nats.Subscription) []byte {
	t.Helper()
	var b bytes.Buffer
	for {
		switch waiting, _, err := heard.Pending(); {
		case err != nil:
			t.Fatal(err)
		case waiting == 0:
			return b.Bytes()
		}
		msg, err := heard.NextMsgWithContext(t.Context())
		must(t, err)
		fmt.Fprintf(&b, "%s\n%v\n%s\n", msg.Subject, msg.Header, msg.Data)
	}
}

// dumpSchema is everything in the tables of a schema.
func (s *system) dumpSchema(db *pgx.Conn, schema string) []byte {
	s.t.Helper()
	ctx := s.t.Context()
	rows, err := db.Query(ctx, "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables WHERE schemaname = $1", schema)
	must(s.t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(s.t, err)
	var b bytes.Buffer
	for _, table := range tables {
		_, err := db.PgConn().CopyTo(ctx, &b, "COPY "+table+" TO STDOUT")
		must(s.t, err)
	}
	return b.Bytes()
}
