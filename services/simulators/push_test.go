package simulators_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/SherClockHolmes/webpush-go"
	"github.com/golang-jwt/jwt/v5"

	"github.com/sekisho/sekisho/services/simulators"
)

type subscribed struct {
	ID, Transport string
	Target        struct {
		webpush.Subscription
		Token string `json:"token"`
	}
}

func subscribe(t *testing.T, base, body string) subscribed {
	t.Helper()
	res, answer := do(t, newRequest(t, "POST", base+"/sim/push/subscriptions", "application/json", body))
	if res.StatusCode != 201 {
		t.Fatal(res.Status, answer)
	}
	return decode[subscribed](t, answer)
}

func unsubscribe(t *testing.T, base, id string) {
	t.Helper()
	if res, body := do(t, newRequest(t, "DELETE", base+"/sim/push/subscriptions/"+id, "", "")); res.StatusCode != 204 {
		t.Fatal(res.Status, body)
	}
}

func TestSubscriptions(t *testing.T) {
	_, base := server(t, nil)
	browser := subscribe(t, base, `{"user":"alice"}`)
	if browser.Transport != "webpush" || !strings.HasPrefix(browser.Target.Endpoint, base+"/webpush/") || browser.Target.Keys.P256dh == "" || browser.Target.Keys.Auth == "" {
		t.Errorf("subscribed %+v", browser)
	}
	if app := subscribe(t, base, `{"user":"alice","transport":"fcm"}`); app.Transport != "fcm" || app.Target.Token == "" || app.Target.Endpoint != "" {
		t.Errorf("subscribed %+v", app)
	}
	const path = "/sim/push/subscriptions"
	for body, status := range map[string]int{`{}`: 422, `{"user":""}`: 422, `{"user":"a","transport":"pigeon"}`: 422, `{"user":"a","more":1}`: 422, `{`: 400} {
		if res, answer := do(t, newRequest(t, "POST", base+path, "application/json", body)); res.StatusCode != status {
			t.Errorf("%s: %s %s", body, res.Status, answer)
		}
	}
	for path, status := range map[string]int{path + "/unknown": 404, path: 405} {
		if res, body := do(t, newRequest(t, "DELETE", base+path, "", "")); res.StatusCode != status {
			t.Errorf("DELETE %s: %s %s", path, res.Status, body)
		}
	}
}

func TestSubscriptionsAreBounded(t *testing.T) {
	sim, base := server(t, nil)
	first := subscribe(t, base, `{"user":"alice"}`)
	for range 10_000 {
		w := httptest.NewRecorder()
		if sim.ServeHTTP(w, newRequest(t, "POST", "/sim/push/subscriptions", "application/json", `{"user":"bob"}`)); w.Code != 201 {
			t.Fatal(w.Body)
		}
	}
	if status := newVAPID(t).push(t, first, "x", nil); status != 404 {
		t.Fatalf("the oldest is still there: status %d", status)
	}
}

// tampering changes a request of webpush-go before it is sent.
type tampering func(*http.Request)

func (f tampering) Do(req *http.Request) (*http.Response, error) {
	if f != nil {
		f(req)
	}
	return http.DefaultClient.Do(req)
}

// vapidKeys is a key pair, and as the library wants it.
type vapidKeys struct {
	*ecdsa.PrivateKey
	private, public string
}

func newVAPID(t *testing.T) vapidKeys {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return vapidKeys{key, base64.RawURLEncoding.EncodeToString(private), base64.RawURLEncoding.EncodeToString(public)}
}

func (k vapidKeys) push(t *testing.T, to subscribed, body string, tamper tampering) int {
	t.Helper()
	res, err := webpush.SendNotificationWithContext(t.Context(), []byte(body), &to.Target.Subscription, &webpush.Options{
		HTTPClient: tamper, Subscriber: "ops@example.com", Topic: "topic", TTL: 60, Urgency: webpush.UrgencyHigh,
		VAPIDPublicKey: k.public, VAPIDPrivateKey: k.private,
	})
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

func set(header, value string) tampering {
	return func(r *http.Request) { r.Header.Set(header, value) }
}

func replaceBody(body []byte) tampering {
	return func(r *http.Request) {
		next, err := http.NewRequest(r.Method, r.URL.String(), bytes.NewReader(body))
		if err != nil {
			panic(err)
		}
		r.Body, r.ContentLength, r.GetBody = next.Body, next.ContentLength, next.GetBody
	}
}

// signed replaces the token by one with other claims; claims of nil are left out.
func (k vapidKeys) signed(t *testing.T, base string, change jwt.MapClaims) tampering {
	t.Helper()
	claims := jwt.MapClaims{"aud": base, "exp": time.Now().Add(time.Hour).Unix(), "sub": "mailto:ops@example.com"}
	for name, value := range change {
		claims[name] = value
		if value == nil {
			delete(claims, name)
		}
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodES256, claims).SignedString(k.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return set("Authorization", "vapid t="+token+", k="+k.public)
}

func TestWebPushService(t *testing.T) {
	sim, base := server(t, new(time.Now()))
	ours, theirs := newVAPID(t), newVAPID(t)
	free := subscribe(t, base, `{"user":"alice"}`)
	bound := subscribe(t, base, `{"user":"bob","vapid":"`+ours.public+`"}`)
	gone := subscribe(t, base, `{"user":"carol"}`)
	unsubscribe(t, base, gone.ID)
	unknown := free
	unknown.Target.Endpoint += "x"
	other := subscribe(t, base, `{"user":"dave"}`)
	misdirected := other
	misdirected.Target.Endpoint = free.Target.Endpoint // encrypted for dave, sent to alice
	hourAgo, twoDays := time.Now().Add(-time.Hour).Unix(), time.Now().Add(48*time.Hour).Unix()

	for name, tc := range map[string]struct {
		keys   vapidKeys
		to     subscribed
		tamper tampering
		want   int
	}{
		"good":        {ours, free, nil, 201},
		"any key":     {theirs, free, nil, 201},
		"its key":     {ours, bound, nil, 201},
		"signed here": {ours, bound, ours.signed(t, base, nil), 201},
		"another key": {theirs, bound, nil, 403},
		"another key, our name": {theirs, bound, func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), theirs.public, ours.public, 1))
		}, 403},
		"ended":               {ours, gone, nil, 410},
		"unknown":             {ours, unknown, nil, 404},
		"no VAPID":            {ours, free, func(r *http.Request) { r.Header.Del("Authorization") }, 401},
		"another scheme":      {ours, free, set("Authorization", "Bearer x"), 403},
		"another origin":      {ours, free, ours.signed(t, base, jwt.MapClaims{"aud": "https://push.example.com"}), 403},
		"expired":             {ours, free, ours.signed(t, base, jwt.MapClaims{"exp": hourAgo}), 403},
		"for ever":            {ours, free, ours.signed(t, base, jwt.MapClaims{"exp": nil}), 403},
		"for two days":        {ours, free, ours.signed(t, base, jwt.MapClaims{"exp": twoDays}), 403},
		"of nobody":           {ours, free, ours.signed(t, base, jwt.MapClaims{"sub": nil}), 403},
		"mailto twice":        {ours, free, ours.signed(t, base, jwt.MapClaims{"sub": "mailto:mailto:ops@example.com"}), 403},
		"no TTL":              {ours, free, func(r *http.Request) { r.Header.Del("TTL") }, 400},
		"odd TTL":             {ours, free, set("TTL", "-1"), 400},
		"odd topic":           {ours, free, set("Topic", "a b"), 400},
		"long topic":          {ours, free, set("Topic", strings.Repeat("x", 33)), 400},
		"odd urgency":         {ours, free, set("Urgency", "now"), 400},
		"another coding":      {ours, free, set("Content-Encoding", "aesgcm"), 400},
		"too large":           {ours, free, replaceBody(make([]byte, 4097)), 413},
		"garbage":             {ours, free, replaceBody(make([]byte, 200)), 400},
		"empty":               {ours, free, replaceBody(nil), 400},
		"for another browser": {ours, misdirected, nil, 400},
	} {
		before := len(sim.PushMessages(""))
		if got := tc.keys.push(t, tc.to, name, tc.tamper); got != tc.want {
			t.Errorf("%s: status %d, want %d", name, got, tc.want)
		}
		messages := sim.PushMessages("")
		if arrived := len(messages) > before; arrived != (tc.want == 201) || arrived && messages[0].Body != name {
			t.Errorf("%s: the phones got %v", name, messages)
		}
	}
}

func TestPushMessages(t *testing.T) {
	now := time.Now().Truncate(time.Second).UTC()
	sim, base := server(t, &now)
	keys := newVAPID(t)
	keys.push(t, subscribe(t, base, `{"user":"alice"}`), "hello", nil)
	keys.push(t, subscribe(t, base, `{"user":"bob"}`), "hello bob", nil)
	_, body := do(t, newRequest(t, "GET", base+"/sim/push/messages?user=alice", "", ""))
	want := `[{"user":"alice","body":"hello","at":"` + now.Format(time.RFC3339) + `","provider":"webpush","topic":"topic","urgency":"high","ttl":60}]`
	if strings.TrimSpace(body) != want {
		t.Errorf("got %s, want %s", body, want)
	}
	if got, err := sim.WaitPush(t.Context(), "", 2); err != nil || got[0].User != "bob" {
		t.Errorf("%v, %v", got, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sim.WaitPush(ended, "alice", 2); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if calls := sim.Calls(simulators.Push); len(calls) != 2 || calls[0].Outcome != simulators.OutcomeAnswered {
		t.Errorf("calls are %v", calls)
	}
}

func TestPushErrorsSpeakTheVendorsTongue(t *testing.T) {
	sim, base := server(t, nil)
	setFault(t, sim, simulators.Push, simulators.Fault{Mode: simulators.Error})
	for path, want := range map[string]string{
		"/webpush/x":                          `"error":"Internal Server Error"`,
		"/fcm/token":                          `"error":"internal_failure"`,
		"/fcm/v1/projects/demo/messages:send": `"errorCode":"INTERNAL"`,
		"/mamoru/approvals":                   `"error":"internal"`,
	} {
		if res, body := do(t, newRequest(t, "POST", base+path, "application/json", "{}")); res.StatusCode != 500 || !strings.Contains(body, want) {
			t.Errorf("%s: %s %s", path, res.Status, body)
		}
	}
}

// firebase runs simulators with a service account.
func firebase(t *testing.T, now *time.Time) (sim *simulators.Simulators, base string, key *rsa.PrivateKey) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sim = simulators.New(simulators.Config{
		FCMProject: "demo", FCMEmail: "push@demo.example", FCMKey: &key.PublicKey, MamoruToken: "token", Now: func() time.Time { return *now },
	})
	s := httptest.NewServer(sim)
	t.Cleanup(func() {
		sim.Close()
		s.Close()
	})
	return sim, s.URL, key
}

func accessToken(t *testing.T, base string, now time.Time, key any, method jwt.SigningMethod, change jwt.MapClaims) (status int, token string) {
	t.Helper()
	claims := jwt.MapClaims{
		"iss": "push@demo.example", "aud": base + "/fcm/token", "scope": "https://www.googleapis.com/auth/firebase.messaging",
		"iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	}
	for name, value := range change {
		claims[name] = value
	}
	assertion, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}}
	res, body := do(t, newRequest(t, "POST", base+"/fcm/token", "application/x-www-form-urlencoded", form.Encode()))
	answer := decode[struct {
		Token string `json:"access_token"`
	}](t, body)
	return res.StatusCode, answer.Token
}

func TestFCMTokenServer(t *testing.T) {
	now := time.Now()
	_, base, key := firebase(t, &now)
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		key    any
		method jwt.SigningMethod
		change jwt.MapClaims
		want   int
	}{
		"good":             {key, jwt.SigningMethodRS256, nil, 200},
		"another key":      {stranger, jwt.SigningMethodRS256, nil, 400},
		"no signature":     {jwt.UnsafeAllowNoneSignatureType, jwt.SigningMethodNone, nil, 400},
		"a shared secret":  {[]byte("secret"), jwt.SigningMethodHS256, nil, 400},
		"another account":  {key, jwt.SigningMethodRS256, jwt.MapClaims{"iss": "other"}, 400},
		"another audience": {key, jwt.SigningMethodRS256, jwt.MapClaims{"aud": "https://oauth2.googleapis.com/token"}, 400},
		"another scope":    {key, jwt.SigningMethodRS256, jwt.MapClaims{"scope": "all"}, 400},
		"expired":          {key, jwt.SigningMethodRS256, jwt.MapClaims{"exp": now.Add(-time.Minute).Unix()}, 400},
		"for two hours":    {key, jwt.SigningMethodRS256, jwt.MapClaims{"exp": now.Add(2 * time.Hour).Unix()}, 400},
	} {
		if status, token := accessToken(t, base, now, tc.key, tc.method, tc.change); status != tc.want || (token != "") != (tc.want == 200) {
			t.Errorf("%s: status %d, token %q", name, status, token)
		}
	}
	_, keyless := server(t, &now)
	if status, _ := accessToken(t, keyless, now, key, jwt.SigningMethodRS256, nil); status != 400 {
		t.Errorf("without a service account: status %d", status)
	}
}

func TestFCMService(t *testing.T) {
	now := time.Now()
	sim, base, key := firebase(t, &now)
	_, access := accessToken(t, base, now, key, jwt.SigningMethodRS256, nil)
	app := subscribe(t, base, `{"user":"alice","transport":"fcm"}`).Target.Token
	gone := subscribe(t, base, `{"user":"alice","transport":"fcm"}`)
	unsubscribe(t, base, gone.ID)
	browser := subscribe(t, base, `{"user":"alice"}`)
	message := func(token, ttl string) string {
		body, err := json.Marshal(map[string]any{"message": map[string]any{
			"token": token, "data": map[string]string{"body": "hello"},
			"android": map[string]string{"priority": "HIGH", "ttl": ttl, "collapse_key": "topic"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	for name, tc := range map[string]struct {
		access, project, body, want string
	}{
		"good":            {access, "demo", message(app, "60s"), `"name":"projects/demo/messages/`},
		"another token":   {"wrong", "demo", message(app, "60s"), "UNAUTHENTICATED"},
		"another project": {access, "other", message(app, "60s"), `"details":[]`},
		"removed app":     {access, "demo", message(gone.Target.Token, "60s"), "UNREGISTERED"},
		"unknown app":     {access, "demo", message("unknown", "60s"), "INVALID_ARGUMENT"},
		"a browser":       {access, "demo", message(browser.ID, "60s"), "INVALID_ARGUMENT"},
		"odd TTL":         {access, "demo", message(app, "soon"), "INVALID_ARGUMENT"},
		"not JSON":        {access, "demo", "{", "INVALID_ARGUMENT"},
	} {
		req := newRequest(t, "POST", base+"/fcm/v1/projects/"+tc.project+"/messages:send", "application/json", tc.body)
		req.Header.Set("Authorization", "Bearer "+tc.access)
		if res, body := do(t, req); (res.StatusCode == 200) != (name == "good") || !strings.Contains(body, tc.want) {
			t.Errorf("%s: %s %s", name, res.Status, body)
		}
	}
	want := simulators.PushMessage{User: "alice", Body: "hello", At: now, Provider: "fcm", Topic: "topic", Urgency: "high", TTL: 60}
	if got := sim.PushMessages(""); len(got) != 1 || got[0] != want {
		t.Errorf("the phones got %+v", got)
	}
	now = now.Add(time.Hour)
	req := newRequest(t, "POST", base+"/fcm/v1/projects/demo/messages:send", "application/json", message(app, "60s"))
	req.Header.Set("Authorization", "Bearer "+access)
	if res, _ := do(t, req); res.StatusCode != 401 {
		t.Errorf("an hour later: %s", res.Status)
	}
}

var hiddenID = regexp.MustCompile(`name="approval" value="([A-Z0-9]+)"`)

// Secrets go to this machine alone, and an approval is decided once.
func TestMamoruPage(t *testing.T) {
	now := time.Now()
	_, base, _ := firebase(t, &now)
	request := func(method, path, contentType, body string) (*http.Response, string) {
		t.Helper()
		req := newRequest(t, method, base+path, contentType, body)
		req.Header.Set("Authorization", "Bearer token")
		res, err := http.DefaultTransport.RoundTrip(req) // without following redirects
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var text bytes.Buffer
		if _, err := text.ReadFrom(res.Body); err != nil {
			t.Fatal(err)
		}
		return res, text.String()
	}
	_, body := request("POST", "/mamoru/approvals", "application/json", `{"account":"<b>","login":"web/1"}`)
	id := decode[struct{ Approval string }](t, body).Approval
	page := func(id, back string) (*http.Response, string) {
		t.Helper()
		return request("GET", "/mamoru/approve?"+url.Values{"approval": {id}, "return": {back}}.Encode(), "", "")
	}
	decide := func(decision string) int {
		t.Helper()
		form := url.Values{"approval": {id}, "return": {"http://localhost:8080/"}, "decision": {decision}}
		res, _ := request("POST", "/mamoru/approve", "application/x-www-form-urlencoded", form.Encode())
		return res.StatusCode
	}
	for back, want := range map[string]int{
		"http://127.0.0.1:8080/x": 200, "http://localhost/x": 200, "https://[::1]/x": 200,
		"https://evil.example/": 400, "javascript:alert(1)": 400, "//evil.example": 400, "": 400, "http://127.0.0.1.evil.example/": 400,
	} {
		if res, body := page(id, back); res.StatusCode != want || want == 200 && (!strings.Contains(body, "&lt;b&gt;") || hiddenID.FindStringSubmatch(body)[1] != id) {
			t.Errorf("return %q: %s %s", back, res.Status, body)
		}
	}
	if res, _ := page("unknown", "http://localhost/"); res.StatusCode != 404 {
		t.Errorf("unknown approval: %s", res.Status)
	}
	for _, step := range []struct {
		decision string
		want     int
	}{{"maybe", 422}, {"denied", 303}, {"approved", 404}} {
		if got := decide(step.decision); got != step.want {
			t.Errorf("%s: status %d, want %d", step.decision, got, step.want)
		}
	}
	for body, want := range map[string]int{`{"account":"a"}`: 422, `{`: 422} {
		if res, _ := request("POST", "/mamoru/approvals", "application/json", body); res.StatusCode != want {
			t.Errorf("%s: %s", body, res.Status)
		}
	}
	if res, _ := do(t, newRequest(t, "POST", base+"/mamoru/approvals", "application/json", `{"account":"a","login":"l"}`)); res.StatusCode != 401 {
		t.Errorf("without a token: %s", res.Status)
	}
}
