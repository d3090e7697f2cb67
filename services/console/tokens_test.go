package console

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/oath"
)

const tokens = "/admin/v1/tokens"

// seed is the secret of each token of these tests.
var seed = []byte("12345678901234567890")

// line is a line of CSV; rest is what stands behind the seed.
func line(serial, rest string) string {
	return serial + "," + hex.EncodeToString(seed) + "," + rest + "\n"
}

// byEvent is a token of the type HOTP, and its code of an event.
func byEvent(serial string) string { return line(serial, "HOTP,6,0") }

func codeOf(t *testing.T, event int64) string {
	t.Helper()
	code, err := oath.Token{Algorithm: oath.HOTP, Hash: oath.SHA1, Digits: 6, Secret: seed}.Code(event, "", "")
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// send imports a file.
func (w *world) send(media, file string, adjust ...func(*http.Request)) *httptest.ResponseRecorder {
	w.Helper()
	return w.call("POST", tokens+"/import", file, append([]func(*http.Request){func(r *http.Request) { r.Header.Set("Content-Type", media) }}, adjust...)...)
}

// imports imports lines of CSV, of which none is refused.
func (w *world) imports(lines ...string) {
	w.Helper()
	answer := w.send("text/csv", strings.Join(lines, ""))
	if want := fmt.Sprintf(`{"imported":%d,"errors":[]}`, len(lines)); answer.Code != 200 || strings.TrimSpace(answer.Body.String()) != want {
		w.Fatalf("import: %d %s, want %s", answer.Code, answer.Body, want)
	}
}

// user adds a user, and returns the id.
func (w *world) user(name string) string {
	w.Helper()
	id := w.must(201, "POST", "/admin/v1/users", `{"user":"`+name+`"}`)["id"].(string)
	w.announced("created", id, `{"authenticators":[],"primary":"password"}`)
	return id
}

// holder adds a user with a token.
func (w *world) holder(name, serial string) (user, data string) {
	w.Helper()
	w.imports(byEvent(serial))
	user = w.user(name)
	id := w.must(200, "POST", tokens+"/"+serial+"/assign", `{"user":"`+name+`"}`)["id"].(string)
	data = `{"token":"` + id + `"}`
	w.announced("token-assigned", user, data)
	return user, data
}

// live is the number of a user's sessions.
func (w *world) live(user string) (n int) {
	w.Helper()
	w.check(w.db.Pool(w, "").QueryRow(w.Context(), `SELECT count(*) FROM sessions.sessions WHERE user_id = $1 AND revoked_at IS NULL`, user).Scan(&n))
	return n
}

const container = `<?xml version="1.0" encoding="UTF-8"?>
<KeyContainer Version="1.0" xmlns="urn:ietf:params:xml:ns:keyprov:pskc"><KeyPackage>
<DeviceInfo><Manufacturer>ACME</Manufacturer><SerialNo>P 1</SerialNo><Model>M1</Model><StartDate>2020-01-01T00:00:00Z</StartDate><ExpiryDate>2099-01-01T00:00:00Z</ExpiryDate></DeviceInfo>
<Key Id="1" Algorithm="urn:ietf:params:xml:ns:keyprov:pskc:totp"><AlgorithmParameters><Suite>HMAC-SHA256</Suite><ResponseFormat Length="8" Encoding="DECIMAL"/></AlgorithmParameters>
<Data><Secret><PlainValue>MTIzNDU2Nzg5MDEyMzQ1Njc4OTA=</PlainValue></Secret><TimeInterval><PlainValue>60</PlainValue></TimeInterval></Data></Key>
</KeyPackage></KeyContainer>`

func TestTokenFiles(t *testing.T) {
	w := newWorld(t)
	csv := byEvent("A-1") + line("A-2", "TOTP,8,60,SHA256") + line("A-3", "SMS") + line("A-4", "OCRA,OCRA-1:HOTP-SHA1-6:QN08") + byEvent("A-1")
	const unasked = "the token has to be asked a question, and none is: set token.question"
	var got struct {
		Imported int
		Errors   []struct {
			Line          int
			Serial, Error string
		}
	}
	read := func(answer *httptest.ResponseRecorder) {
		t.Helper()
		got.Errors = nil
		if err := json.Unmarshal(answer.Body.Bytes(), &got); answer.Code != 200 || err != nil {
			t.Fatalf("%d %s", answer.Code, answer.Body)
		}
	}
	read(w.send("text/csv; charset=UTF-8; header=absent", csv))
	if e := got.Errors; got.Imported != 2 || len(e) != 3 || e[0].Line != 3 || e[0].Serial != "A-3" || e[1].Line != 4 || e[1].Error != unasked || e[2].Line != 5 {
		t.Errorf("imported %+v", got)
	}
	read(w.send("text/csv", csv)) // again, as after an answer that got lost
	if e := got.Errors; got.Imported != 0 || len(e) != 5 || e[0].Line != 1 || e[0].Serial != "A-1" || !strings.Contains(e[0].Error, "already") {
		t.Errorf("imported again: %+v", got)
	}
	read(w.send("application/pskc+xml", container))
	if got.Imported != 1 || got.Errors == nil || len(got.Errors) != 0 {
		t.Errorf("imported of the container: %+v", got)
	}
	w.env.Config.Token.Question = 9
	if read(w.send("text/csv", csv)); !strings.Contains(got.Errors[3].Error, "at most 8 digits, and token.question says 9") {
		t.Errorf("with questions that are too long: %+v", got)
	}
	w.env.Config.Token.Question = 8
	if read(w.send("text/csv", csv)); got.Imported != 1 || len(got.Errors) != 4 {
		t.Errorf("with questions: %+v", got)
	}

	for serial, want := range map[string]string{
		"A-1": `map[algorithm:hotp digits:6 disabled:false failures:0 hash:SHA1 locked:false pin:false reset:false serial:A-1]`,
		"A-4": `map[algorithm:ocra digits:6 disabled:false failures:0 locked:false pin:false reset:false serial:A-4 suite:OCRA-1:HOTP-SHA1-6:QN08]`,
		"P%201": `map[algorithm:totp digits:8 disabled:false expires:2099-01-01T00:00:00Z failures:0 hash:SHA256 locked:false manufacturer:ACME model:M1 ` +
			`period:60 pin:false reset:false serial:P 1 starts:2020-01-01T00:00:00Z]`,
	} {
		token := w.must(200, "GET", tokens+"/"+serial, "")
		if imported, err := time.Parse(time.RFC3339Nano, token["imported"].(string)); err != nil || time.Since(imported) > time.Minute || token["id"] == "" {
			t.Errorf("%s: %v", serial, token)
		}
		delete(token, "imported")
		delete(token, "id")
		if fmt.Sprint(token) != want {
			t.Errorf("%s is shown as\n%v, want\n%s", serial, token, want)
		}
	}
	for _, secret := range []string{hex.EncodeToString(seed), string(seed), "A-1", "P 1", "ACME"} {
		if strings.Contains(w.log.String(), secret) {
			t.Errorf("the log tells %q", secret)
		}
	}
}

// A token goes on from where its file says that it stands.
func TestTokensStandWhereTheirFilesSay(t *testing.T) {
	w := newWorld(t)
	w.imports(line("K-1", "HOTP,6,1000"))
	for first, status := range map[int64]int{998: 409, 1050: 200} {
		w.must(status, "POST", tokens+"/K-1/resync", `{"codes":["`+codeOf(t, first)+`","`+codeOf(t, first+1)+`"]}`)
	}
	drifted := strings.Replace(container, "<TimeInterval>", "<TimeDrift><PlainValue>-3</PlainValue></TimeDrift><TimeInterval>", 1)
	if answer := w.send("application/pskc+xml", drifted); answer.Code != 200 {
		t.Fatalf("%d %s", answer.Code, answer.Body)
	}
	var drift int
	w.check(w.db.Pool(t, "").QueryRow(t.Context(), `SELECT drift FROM directory.tokens WHERE serial = 'P 1'`).Scan(&drift))
	if drift != -3 {
		t.Errorf("drift %d", drift)
	}
}

func TestBadTokenFiles(t *testing.T) {
	w := newWorld(t)
	keyed := func(r *http.Request) { r.Header.Set("Sekisho-Import-Key", "12345678901234567890123456789012") }
	for name, tt := range map[string]struct {
		media, file string
		adjust      func(*http.Request)
		status      int
		detail      string
	}{
		"JSON":             {"application/json", `{}`, nil, 415, "pskc+xml"},
		"no type":          {"", byEvent("B-1"), nil, 415, "pskc+xml"},
		"other characters": {"text/csv; charset=shift_jis", byEvent("B-1"), nil, 415, "UTF-8"},
		"plain XML":        {"application/xml", container, nil, 415, "pskc+xml"},
		"too large":        {"text/csv", strings.Repeat("#\n", maxImport/2) + "#", nil, 413, ""},
		"empty":            {"text/csv", "\n", nil, 422, "the file holds no tokens"},
		"not CSV":          {"text/csv", "\"", nil, 422, "line 1"},
		"not XML":          {"application/pskc+xml", "serial,seed", nil, 422, "KeyContainer"},
		"CSV with a key":   {"text/csv", byEvent("B-1"), keyed, 422, "leave the key out"},
		"clear with a key": {"application/pskc+xml", container, keyed, 200, ""}, // refuses the token, not the file
	} {
		t.Run(name, func(t *testing.T) {
			if tt.adjust == nil {
				tt.adjust = func(*http.Request) {}
			}
			answer := w.send(tt.media, tt.file, tt.adjust)
			if answer.Code != tt.status || !strings.Contains(answer.Body.String(), tt.detail) || strings.Contains(answer.Body.String(), "tokenfile") {
				t.Errorf("%d %s, want %d, %q", answer.Code, answer.Body, tt.status, tt.detail)
			}
		})
	}
	if got := w.must(200, "GET", tokens, "")["tokens"].([]any); len(got) != 0 {
		t.Errorf("%d tokens came of bad files", len(got))
	}
}

// Ten thousand tokens, in some tenths of a second, are there long before the patience for one request is at its end.
func TestManyTokens(t *testing.T) {
	w := newWorld(t)
	const many = 10_000
	file := strings.Builder{}
	for i := range many {
		file.WriteString(byEvent(fmt.Sprintf("C-%05d", i)))
	}
	if answer := w.send("text/csv", file.String()); answer.Code != 200 || !strings.Contains(answer.Body.String(), `"imported":10000,`) {
		t.Fatalf("%d %s", answer.Code, answer.Body)
	}
}

func TestTokensList(t *testing.T) {
	w := newWorld(t)
	var file []string
	for i := range directory.PageSize + 1 {
		file = append(file, byEvent(fmt.Sprintf("D%02d", i)))
	}
	w.imports(append(file, byEvent("d00"), byEvent("E%"))...)
	w.user("dora")
	w.must(200, "POST", tokens+"/D50/assign", `{"user":"DORA"}`)
	for _, tt := range []struct {
		query string
		n     int
		next  any
	}{
		{"", directory.PageSize, 2.0}, {"?page=2", 3, nil}, {"?q=D1", 10, nil}, {"?q=E%25", 1, nil}, {"?q=%25", 0, nil}, {"?q=nobody", 0, nil},
		{"?q=d", 2, nil}, {"?q=Dora", 1, nil}, {"?q=%EF%BC%A4ora", 1, nil}, {"?q=a%20b", 0, nil}, {"?q=.", 0, nil},
	} {
		got := w.must(200, "GET", tokens+tt.query, "")
		if list, ok := got["tokens"].([]any); !ok || len(list) != tt.n || got["next"] != tt.next {
			t.Errorf("%s: %d tokens, next %v, want %d, %v", tt.query, len(list), got["next"], tt.n, tt.next)
		}
	}
	for _, query := range []string{"?page=0", "?page=two", "?q=%00", "?q=%ff"} {
		w.must(422, "GET", tokens+query, "")
	}
}

// What an admin does with one token, from its assignment to its end.
func TestToken(t *testing.T) {
	w := newWorld(t)
	alice, data := w.holder("alice", "F-1")
	w.user("bob")
	one := tokens + "/F-1"
	do := func(action, body string) map[string]any {
		t.Helper()
		return w.must(200, "POST", one+"/"+action, body)
	}
	got := w.must(200, "GET", one, "")
	if _, ok := got["assigned"]; !ok || got["user"] != "alice" || got["used"] != nil {
		t.Errorf("assigned: %v", got)
	}
	if again := do("assign", `{"user":"Alice"}`); again["assigned"] != got["assigned"] { // as after an answer that got lost
		t.Errorf("assigned again: %v", again)
	}
	w.must(409, "POST", one+"/assign", `{"user":"bob"}`)
	w.imports(byEvent("F-2"))
	w.env.Config.Token.PerUser = 1
	w.must(409, "POST", tokens+"/F-2/assign", `{"user":"alice"}`)
	w.must(409, "POST", tokens+"/F-2/pin", `{"pin":"1357"}`)

	if got := do("pin", `{"pin":"1357"}`); got["pin"] != true {
		t.Errorf("with a PIN: %v", got)
	}
	w.announced("token-pin-set", alice, data)
	if got := do("pin", `{"pin":""}`); got["pin"] != false {
		t.Errorf("without a PIN: %v", got)
	}
	w.announced("token-pin-set", alice, data)
	if got := do("disable", ""); got["disabled"] != true {
		t.Errorf("disabled: %v", got)
	}
	w.announced("token-disabled", alice, data)
	if got := do("unlock", ""); got["disabled"] != false {
		t.Errorf("unlocked: %v", got)
	}
	w.announced("token-unlocked", alice, data)
	if got := do("reset", ""); got["reset"] != true {
		t.Errorf("reset: %v", got)
	}
	w.announced("token-reset", alice, data)

	codes := func(first, second int64) string {
		return `{"codes":["` + codeOf(t, first) + `","` + codeOf(t, second) + `"]}`
	}
	for _, wrong := range []string{codes(60, 62), codes(61, 60), codes(5000, 5001)} {
		w.must(409, "POST", one+"/resync", wrong)
	}
	if got := w.must(200, "GET", one, ""); got["reset"] != true {
		t.Errorf("after a resync that failed: %v", got)
	}
	if got := do("resync", codes(60, 61)); got["reset"] != false {
		t.Errorf("resynchronized: %v", got)
	}
	w.announced("token-resynced", alice, data)
	w.must(409, "POST", one+"/resync", codes(60, 61)) // which are used up

	do("pin", `{"pin":"1357"}`)
	w.announced("token-pin-set", alice, data)
	if got := do("unassign", ""); got["user"] != nil || got["assigned"] != nil || got["pin"] != false {
		t.Errorf("unassigned: %v", got)
	}
	w.announced("token-unassigned", alice, data)
	do("unassign", "") // again, as after an answer that got lost
	do("assign", `{"user":"alice"}`)
	w.announced("token-assigned", alice, data)
	w.must(204, "DELETE", one, "")
	w.announced("token-unassigned", alice, data)
	w.must(404, "DELETE", one, "")
	w.must(204, "DELETE", tokens+"/F-2", "") // which was nobody's
}

func TestTokenThatIsAskedAQuestion(t *testing.T) {
	w := newWorld(t)
	w.env.Config.Token.Question = 8
	w.imports(line("G-1", "OCRA,OCRA-1:HOTP-SHA1-6:C-QN08,0"))
	answer := w.call("POST", tokens+"/G-1/resync", `{"codes":["123456","654321"]}`)
	if answer.Code != 409 || !strings.Contains(answer.Body.String(), "reset it") {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
}

// A token that was sealed under a key that is lost can be found, and deleted.
func TestTokenOfALostKey(t *testing.T) {
	w := newWorld(t)
	user, data := w.holder("carol", "1")
	_, err := w.db.Pool(t, "").Exec(t.Context(), `UPDATE directory.tokens SET secret = sha256(secret)`)
	w.check(err)
	if got := w.must(200, "GET", tokens+"/1", ""); got["unreadable"] != true {
		t.Errorf("shown as %v", got)
	}
	w.must(409, "POST", tokens+"/1/resync", `{"codes":["755224","287082"]}`)
	w.must(204, "DELETE", tokens+"/1", "")
	w.announced("token-unassigned", user, data)
}

// Whoever has a token that is taken away, or knew a PIN that is another now, may hold sessions.
func TestSessionsEndWithTokens(t *testing.T) {
	w := newWorld(t)
	for i, tt := range []struct {
		method, action, body string
		ends                 bool
		status               int
	}{
		{"POST", "/unassign", "", true, 200},
		{"POST", "/disable", "", true, 200},
		{"DELETE", "", "", true, 204},
		{"POST", "/pin", `{"pin":"1357"}`, true, 200},
		{"POST", "/pin", `{"pin":""}`, true, 200},
		{"POST", "/unlock", "", false, 200},
		{"POST", "/reset", "", false, 200},
		{"POST", "/resync", `{"codes":["` + codeOf(t, 20) + `","` + codeOf(t, 21) + `"]}`, false, 200},
	} {
		t.Run(fmt.Sprint(tt.method, tt.action, i), func(t *testing.T) {
			user, serial := fmt.Sprintf("user%d", i), fmt.Sprintf("H-%d", i)
			id, _ := w.holder(user, serial)
			login := w.session(id)
			var before, after int
			generation := func(n *int) {
				w.check(w.db.Pool(t, "").QueryRow(t.Context(), `SELECT generation FROM directory.users WHERE id = $1`, id).Scan(n))
			}
			generation(&before)
			w.must(tt.status, tt.method, tokens+"/"+serial+tt.action, tt.body)
			for range map[bool]int{true: 2, false: 1}[tt.ends] { // what was changed, and that sessions ended
				_, err := w.heard.NextMsg(10 * time.Second)
				w.check(err)
			}
			if tt.ends {
				w.revoked(login)
			}
			if generation(&after); w.live(id) == 0 != tt.ends || after > before != tt.ends {
				t.Errorf("%d sessions, generation from %d to %d", w.live(id), before, after)
			}
		})
	}
}

// A user's tokens are among the authenticators, and share their failures.
func TestTokensAreAuthenticators(t *testing.T) {
	w := newWorld(t)
	alice, data := w.holder("alice", "I-1")
	bob, _ := w.holder("bob", "I-2")
	w.imports(byEvent("I-3"))
	w.must(200, "POST", tokens+"/I-3/assign", `{"user":"alice"}`)
	_, err := w.heard.NextMsg(10 * time.Second)
	w.check(err)
	attempts := directory.NewAttempts(w.db.Pool(t, "otpvalidator"), directory.Rule(w.env.Config.Lock), time.Now)
	defer attempts.Close()
	fail := func() {
		t.Helper()
		for i := range w.env.Config.Lock.After {
			_, err := attempts.Begin(t.Context(), directory.Attempt{Event: fmt.Sprint(i, time.Now()), Digest: []byte{1}, Authenticator: directory.TokenOf(alice)})
			w.check(err)
		}
	}
	list := func(user string) (all []string) {
		t.Helper()
		for _, v := range w.must(200, "GET", "/admin/v1/users/"+user+"/authenticators", "")["authenticators"].([]any) {
			a := v.(map[string]any)
			all = append(all, fmt.Sprint(a["kind"], " ", a["name"], " ", a["failures"], " ", a["locked"]))
		}
		return all
	}
	shown := func(serial string) string {
		t.Helper()
		got := w.must(200, "GET", tokens+"/"+serial, "")
		return fmt.Sprint(got["failures"], " ", got["locked"])
	}
	fail()
	if got := list("alice"); !slices.Equal(got, []string{"token I-1 5 true", "token I-3 5 true"}) {
		t.Errorf("alice's authenticators: %q", got)
	}
	if got := list("bob"); !slices.Equal(got, []string{"token I-2 0 false"}) {
		t.Errorf("bob's authenticators: %q", got)
	}
	if a, b := shown("I-3"), shown("I-2"); a != "5 true" || b != "0 false" {
		t.Errorf("shown as %s and %s", a, b)
	}
	for _, action := range []string{"unlock", "reset"} {
		if got := w.must(200, "POST", tokens+"/I-1/"+action, ""); got["failures"] != 0.0 || got["locked"] != false {
			t.Errorf("%s: %v", action, got)
		}
		_, err := w.heard.NextMsg(10 * time.Second)
		w.check(err)
		fail()
	}
	if got := w.must(200, "GET", "/admin/v1/users/alice", "")["authenticators"].([]any); fmt.Sprint(got) != "[token]" {
		t.Errorf("alice has %v", got)
	}

	session := w.session(alice)
	id := "/authenticators/token:" + strings.TrimSuffix(strings.TrimPrefix(data, `{"token":"`), `"}`)
	w.must(404, "DELETE", "/admin/v1/users/bob"+id, "")
	w.must(204, "DELETE", "/admin/v1/users/alice"+id, "")
	w.revoked(session)
	w.announced("sessions_revoked", alice, `{"sessions":1}`)
	w.announced("token-unassigned", alice, data)
	w.must(404, "DELETE", "/admin/v1/users/alice"+id, "")
	if got := w.must(200, "GET", tokens+"/I-1", ""); got["user"] != nil {
		t.Errorf("after that: %v", got)
	}
	w.must(200, "POST", tokens+"/I-1/assign", `{"user":"alice"}`) // starts with a clean counter
	if got := shown("I-1"); got != "0 false" {
		t.Errorf("assigned anew: %s", got)
	}

	w.must(200, "POST", tokens+"/I-2/pin", `{"pin":"1357"}`)
	w.must(204, "DELETE", "/admin/v1/users/bob", "")
	if got := w.must(200, "GET", tokens+"/I-2", ""); got["user"] != nil || got["pin"] != false {
		t.Errorf("a token of %s, who is gone: %v", bob, got)
	}
}

func TestBadTokenInput(t *testing.T) {
	w := newWorld(t)
	w.holder("alice", "J-1")
	for name, tt := range map[string]struct {
		method, path, body string
		status             int
		field, detail      string
	}{
		"unknown token":        {"GET", "/J-2", "", 404, "", "no such token"},
		"another case":         {"GET", "/j-1", "", 404, "", "no such token"},
		"no text":              {"GET", "/%00", "", 404, "", "no such token"},
		"no UTF-8":             {"DELETE", "/%ff", "", 404, "", "no such token"},
		"unknown, delete":      {"DELETE", "/J-2", "", 404, "", "no such token"},
		"unknown, assign":      {"POST", "/J-2/assign", `{"user":"alice"}`, 404, "", "no such token"},
		"unknown, unassign":    {"POST", "/J-2/unassign", "", 404, "", "no such token"},
		"unknown, disable":     {"POST", "/J-2/disable", "", 404, "", "no such token"},
		"unknown, unlock":      {"POST", "/J-2/unlock", "", 404, "", "no such token"},
		"unknown, reset":       {"POST", "/J-2/reset", "", 404, "", "no such token"},
		"unknown, resync":      {"POST", "/J-2/resync", `{"codes":["123456","654321"]}`, 404, "", "no such token"},
		"unknown, pin":         {"POST", "/J-2/pin", `{"pin":"1357"}`, 404, "", "no such token"},
		"unknown, to nobody":   {"POST", "/J-2/assign", `{"user":"nobody"}`, 404, "", "no such token"},
		"to nobody":            {"POST", "/J-1/assign", `{"user":"nobody"}`, 404, "", "no such user"},
		"to no name":           {"POST", "/J-1/assign", `{"user":"a b"}`, 404, "", "no such user"},
		"to a number":          {"POST", "/J-1/assign", `{"user":7}`, 422, "user", ""},
		"to nothing":           {"POST", "/J-1/assign", `{"user":""}`, 422, "user", ""},
		"without user":         {"POST", "/J-1/assign", `{}`, 422, "user", ""},
		"more than user":       {"POST", "/J-1/assign", `{"user":"alice","force":true}`, 422, "force", ""},
		"no JSON":              {"POST", "/J-1/assign", `alice`, 400, "", ""},
		"no codes":             {"POST", "/J-1/resync", `{}`, 422, "codes", ""},
		"one code":             {"POST", "/J-1/resync", `{"codes":["123456"]}`, 422, "codes", ""},
		"three codes":          {"POST", "/J-1/resync", `{"codes":["123456","123456","123456"]}`, 422, "codes", ""},
		"a code of letters":    {"POST", "/J-1/resync", `{"codes":["123456","12345a"]}`, 422, "codes", ""},
		"a code as number":     {"POST", "/J-1/resync", `{"codes":["123456",123456]}`, 422, "codes/1", ""},
		"a code that is short": {"POST", "/J-1/resync", `{"codes":["12345","123456"]}`, 422, "codes", ""},
		"no PIN":               {"POST", "/J-1/pin", `{}`, 422, "pin", "want 4 to 8"},
		"short PIN":            {"POST", "/J-1/pin", `{"pin":"135"}`, 422, "pin", "want 4 to 8"},
		"long PIN":             {"POST", "/J-1/pin", `{"pin":"135724680"}`, 422, "pin", "want 4 to 8"},
		"PIN of letters":       {"POST", "/J-1/pin", `{"pin":"abcd"}`, 422, "pin", "want 4 to 8"},
		"full-width PIN":       {"POST", "/J-1/pin", `{"pin":"１３５７"}`, 422, "pin", "want 4 to 8"},
		"wrong method":         {"PUT", "/J-1", `{}`, 405, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			answer := w.call(tt.method, tokens+tt.path, tt.body)
			var problem struct {
				Status        int
				Field, Detail string
			}
			if err := json.Unmarshal(answer.Body.Bytes(), &problem); err != nil {
				t.Fatal(err)
			}
			if answer.Code != tt.status || problem.Status != tt.status || problem.Field != tt.field || !strings.Contains(problem.Detail, tt.detail) {
				t.Errorf("%d %s, want %d, field %q, %q", answer.Code, answer.Body, tt.status, tt.field, tt.detail)
			}
		})
	}
	for _, pin := range []string{"1357", "1235", "1122", "90909090", "2468"} { // regular, and yet not what is tried first
		w.must(200, "POST", tokens+"/J-1/pin", `{"pin":"`+pin+`"}`)
	}
}
