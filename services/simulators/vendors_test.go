package simulators_test

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/services/simulators"
)

type karadenAnswer struct {
	ID, Object, To, Body, Status, Result, Code string
	SentResult                                 string `json:"sent_result"`
	SentAt                                     string `json:"sent_at"`
	ReceivedAt                                 string `json:"received_at"`
	CreatedAt                                  string `json:"created_at"`
	Tags                                       []string
	Errors                                     map[string][]string
	HasMore                                    bool `json:"has_more"`
	Data                                       []karadenAnswer
}

func TestKaradenValidates(t *testing.T) {
	sim, base := server(t, nil)
	for field, bad := range map[string][]string{
		"to":           {"", "0901234567", "090123456789", "+819012345678", "09012345x78", "０９０１２３４５６７８"},
		"body":         {"", strings.Repeat("あ", 661)},
		"service_id":   {"", "0", "-1", "one"},
		"is_shorten":   {"yes", "1"},
		"limited_at":   {"", "tomorrow", "2026-04-01"},
		"scheduled_at": {"soon", epoch.AddDate(0, 0, 31).Format(time.RFC3339)},
	} {
		for _, value := range bad {
			form := url.Values{"service_id": {"1"}, "to": {"09012345678"}, "body": {strings.Repeat("あ", 660)}}
			form.Set(field, value)
			res, body := do(t, karadenRequest(t, "POST", base+"/karaden/api/tenant/messages", form))
			answer := decode[karadenAnswer](t, body)
			if res.StatusCode != 422 || answer.Object != "error" || answer.Code != "validation_error" || len(answer.Errors[field]) != 1 || len(answer.Errors) != 1 {
				t.Errorf("%s=%.20q: %s %s", field, value, res.Status, body)
			}
		}
	}
	if n := len(sim.Messages("")); n != 0 {
		t.Errorf("%d messages reached phones", n)
	}
}

func TestKaradenChecksTheCaller(t *testing.T) {
	_, base := server(t, nil)
	for name, tc := range map[string]struct {
		tenant, header, value string
		status                int
		code                  string
	}{
		"wrong token":   {"tenant", "Authorization", "Bearer wrong", 401, "unauthentication"},
		"basic auth":    {"tenant", "Authorization", "Basic karaden-token", 401, "unauthentication"},
		"no version":    {"tenant", "Karaden-Version", "", 400, "invalid_version"},
		"odd version":   {"tenant", "Karaden-Version", "2022-01-01", 400, "invalid_version"},
		"wrong tenant":  {"other", "Accept", "*/*", 400, "invalid_tenant"},
		"older version": {"tenant", "Karaden-Version", "2023-01-01", 200, ""},
	} {
		req := karadenRequest(t, "GET", base+"/karaden/api/"+tc.tenant+"/messages", nil)
		req.Header.Set(tc.header, tc.value)
		res, body := do(t, req)
		if answer := decode[karadenAnswer](t, body); res.StatusCode != tc.status || answer.Code != tc.code {
			t.Errorf("%s: %s %s", name, res.Status, body)
		}
	}
}

func TestKaradenMessageGoesThroughItsStates(t *testing.T) {
	_, base := server(t, nil)
	_, body := karaden(t, base, "09012345678", "hello")
	m := decode[karadenAnswer](t, body)
	if m.Object != "message" || m.Status != "waiting" || m.Result != "processing" || m.SentResult != "none" ||
		m.SentAt != "" || m.CreatedAt != "2026-04-01T21:00:00+09:00" {
		t.Fatalf("created: %s", body)
	}
	for _, want := range [][3]string{{"done", "processing", "none"}, {"done", "done", "received"}, {"done", "done", "received"}} {
		_, body = do(t, karadenRequest(t, "GET", base+"/karaden/api/tenant/messages/"+m.ID, nil))
		if m := decode[karadenAnswer](t, body); [3]string{m.Status, m.Result, m.SentResult} != want || (m.ReceivedAt != "") != (want[2] == "received") {
			t.Fatalf("want %v: %s", want, body)
		}
	}
	res, body := do(t, karadenRequest(t, "GET", base+"/karaden/api/tenant/messages/unknown", nil))
	if res.StatusCode != 404 || decode[karadenAnswer](t, body).Code != "model_not_found" {
		t.Fatalf("%s %s", res.Status, body)
	}
}

func TestKaradenListsByTag(t *testing.T) {
	_, base := server(t, nil)
	for i, key := range []string{"tags[]", "tags[0]", "tags[1]"} { // each client has its own spelling
		form := url.Values{"service_id": {"1"}, "to": {"09012345678"}, "body": {key}, key: {"round"}}
		form.Add("tags[2]", strconv.Itoa(i))
		do(t, karadenRequest(t, "POST", base+"/karaden/api/tenant/messages", form))
	}
	for query, want := range map[string]int{
		"?tag=round": 3, "?tag=1": 1, "?tag=other": 0, "?to=09012345678&tag=0": 1, "?to=08000000000": 0,
		"?service_id=2": 0, "?per_page=2": 2, "?per_page=2&page=2": 1, "?per_page=2&page=3": 0, "?sent_result=error": 0,
	} {
		_, body := do(t, karadenRequest(t, "GET", base+"/karaden/api/tenant/messages"+query, nil))
		list := decode[karadenAnswer](t, body)
		if list.Object != "list" || len(list.Data) != want || list.HasMore != (query == "?per_page=2") {
			t.Errorf("%s: %s", query, body)
		}
	}
}

func TestKaradenScheduledMessages(t *testing.T) {
	now := epoch
	sim, base := server(t, &now)
	schedule := func(ahead time.Duration) string {
		_, body := do(t, karadenRequest(t, "POST", base+"/karaden/api/tenant/messages", url.Values{
			"service_id": {"1"}, "to": {"09012345678"}, "body": {"later"}, "scheduled_at": {now.Add(ahead).Format(time.RFC3339)},
		}))
		return decode[karadenAnswer](t, body).ID
	}
	cancel := func(id string) (int, karadenAnswer) {
		res, body := do(t, karadenRequest(t, "POST", base+"/karaden/api/tenant/messages/"+id+"/cancel", nil))
		return res.StatusCode, decode[karadenAnswer](t, body)
	}
	id := schedule(time.Hour)
	if n := len(sim.Messages("")); n != 0 {
		t.Fatalf("%d messages arrived at once", n)
	}
	now = now.Add(time.Hour)
	do(t, karadenRequest(t, "GET", base+"/karaden/api/tenant/messages/"+id, nil))
	if n := len(sim.Messages("")); n != 1 {
		t.Fatalf("%d messages arrived in time", n)
	}
	if status, answer := cancel(id); status != 400 || answer.Code != "can_not_cancel_message" {
		t.Errorf("canceled after sending: %d %+v", status, answer)
	}
	if status, answer := cancel(schedule(4 * time.Minute)); status != 400 || answer.Code != "can_not_cancel_message" {
		t.Errorf("canceled four minutes ahead: %d %+v", status, answer)
	}
	if status, answer := cancel(schedule(6 * time.Minute)); status != 200 || answer.Status != "canceled" {
		t.Errorf("not canceled six minutes ahead: %d %+v", status, answer)
	}
	if status, answer := cancel("unknown"); status != 404 || answer.Code != "model_not_found" {
		t.Errorf("canceled an unknown one: %d %+v", status, answer)
	}
}

func TestKaradenHonorsLimitedAt(t *testing.T) {
	sim, base := server(t, nil)
	_, body := do(t, karadenRequest(t, "POST", base+"/karaden/api/tenant/messages", url.Values{
		"service_id": {"1"}, "to": {"09012345678"}, "body": {"x"}, "limited_at": {epoch.Add(-time.Second).Format(time.RFC3339)},
	}))
	_, body = do(t, karadenRequest(t, "GET", base+"/karaden/api/tenant/messages/"+decode[karadenAnswer](t, body).ID, nil))
	if m := decode[karadenAnswer](t, body); m.Status != "error" || len(sim.Messages("")) != 0 {
		t.Fatal(body)
	}
}

type twilioAnswer struct {
	SID, To, From, Body, Status string
	Code                        int
	DateSent                    string `json:"date_sent"`
	DateCreated                 string `json:"date_created"`
	Messages                    []twilioAnswer
}

func twilioRequest(t *testing.T, method, url string, form url.Values) *http.Request {
	t.Helper()
	req := newRequest(t, method, url, "application/x-www-form-urlencoded", form.Encode())
	req.SetBasicAuth("AC1", "twilio-token")
	return req
}

func TestTwilioMessageGoesThroughItsStates(t *testing.T) {
	sim, base := server(t, nil)
	messages := base + "/twilio/2010-04-01/Accounts/AC1/Messages"
	form := url.Values{"To": {"+819012345678"}, "From": {"+815012345678"}, "Body": {"hello"}, "ValidityPeriod": {"300"}}
	res, body := do(t, twilioRequest(t, "POST", messages+".json", form))
	m := decode[twilioAnswer](t, body)
	if res.StatusCode != 201 || m.Status != "queued" || m.DateSent != "" || m.DateCreated != "Wed, 01 Apr 2026 12:00:00 +0000" || len(m.SID) != 34 {
		t.Fatalf("%s %s", res.Status, body)
	}
	if got := sim.Messages("09012345678"); len(got) != 1 || got[0].Provider != simulators.SMS2 {
		t.Fatalf("the phone got %v", got)
	}
	for _, want := range []string{"sent", "delivered", "delivered"} {
		_, body = do(t, twilioRequest(t, "GET", messages+"/"+m.SID+".json", nil))
		if m := decode[twilioAnswer](t, body); m.Status != want || m.DateSent == "" {
			t.Fatalf("want %s: %s", want, body)
		}
	}
	for query, want := range map[string]int{
		"": 1, "?To=%2B819012345678": 1, "?To=%2B818000000000": 0, "?From=%2B81": 0, "?DateSent=2026-04-01": 1, "?DateSent=2026-04-02": 0,
		"?DateSent%3E=2026-03-31": 1, "?DateSent%3E=2026-04-02": 0, "?DateSent%3C=2026-04-01": 1, "?DateSent%3C=2026-03-31": 0,
	} {
		_, body := do(t, twilioRequest(t, "GET", messages+".json"+query, nil))
		if list := decode[twilioAnswer](t, body); len(list.Messages) != want {
			t.Errorf("%s: %s", query, body)
		}
	}
}

func TestTwilioValidates(t *testing.T) {
	sim, base := server(t, nil)
	good := url.Values{"To": {"+819012345678"}, "From": {"+815012345678"}, "Body": {"hello"}}
	for name, tc := range map[string]struct {
		account, field, value string
		status, code          int
	}{
		"national number": {"AC1", "To", "09012345678", 400, 21211},
		"no sender":       {"AC1", "From", "", 400, 21603},
		"no body":         {"AC1", "Body", "", 400, 21602},
		"long body":       {"AC1", "Body", strings.Repeat("あ", 1601), 400, 21617},
		"no validity":     {"AC1", "ValidityPeriod", "0", 400, 20001},
		"long validity":   {"AC1", "ValidityPeriod", "14401", 400, 20001},
		"another account": {"AC2", "Body", "hello", 404, 20404},
	} {
		form := url.Values{}
		for field := range good {
			form.Set(field, good.Get(field))
		}
		form.Set(tc.field, tc.value)
		res, body := do(t, twilioRequest(t, "POST", base+"/twilio/2010-04-01/Accounts/"+tc.account+"/Messages.json", form))
		if answer := decode[twilioProblem](t, body); res.StatusCode != tc.status || answer.Code != tc.code || answer.Status != tc.status {
			t.Errorf("%s: %s %s", name, res.Status, body)
		}
	}
	req := twilioRequest(t, "GET", base+"/twilio/2010-04-01/Accounts/AC1/Messages.json?DateSent=today", nil)
	if res, body := do(t, req); res.StatusCode != 400 {
		t.Errorf("odd date: %s %s", res.Status, body)
	}
	req.SetBasicAuth("AC1", "wrong")
	if res, body := do(t, req); res.StatusCode != 401 || decode[twilioProblem](t, body).Code != 20003 {
		t.Errorf("wrong token: %s %s", res.Status, body)
	}
	if n := len(sim.Messages("")); n != 0 {
		t.Errorf("%d messages reached phones", n)
	}
}

// twilioProblem is Twilio's error, in which status is a number.
type twilioProblem struct{ Code, Status int }

func TestOMotion(t *testing.T) {
	_, base := server(t, nil)
	call := func(method, path, user, signature, body string) (*http.Response, string) {
		req := newRequest(t, method, base+"/omotion"+path, "application/json", body)
		sum := sha256.Sum256([]byte(user))
		req.Header.Set("X-Omotion-Useridhashed", hex.EncodeToString(sum[:]))
		req.Header.Set("X-Omotion-Signature", signature)
		return do(t, req)
	}
	verdict := func(id, user string) string {
		t.Helper()
		res, body := call("GET", "/assessments/"+id, user, "signature", "")
		if res.StatusCode != 200 {
			t.Fatalf("%s %s", res.Status, body)
		}
		a := decode[map[string]string](t, body)
		return a["final_result"] + " " + a["reason"]
	}
	check := func(id, user, want string) {
		t.Helper()
		if got := verdict(id, user); got != want {
			t.Errorf("assessment %s of %s is %s, want %s", id, user, got, want)
		}
	}
	check("a", "alice", "REVIEW FIRST_USER_DEVICE")
	check("latest", "alice", "REVIEW FIRST_USER_DEVICE")
	check("a", "bob", "OK USER_DEVICE")
	check("bot1", "bob", "NG BOT")
	for user, result := range map[string]string{"alice": "OK", "BOB": "NG"} { // who is bob: user names have no case
		res, body := do(t, newRequest(t, "PUT", base+"/sim/risk/users/"+user, "application/json", `{"result":"`+result+`"}`))
		if res.StatusCode != 204 {
			t.Fatalf("%s %s", res.Status, body)
		}
	}
	check("a", "alice", "OK USER_DEVICE")
	check("a", "bob", "NG NG_DEVICE")

	for _, tc := range []struct {
		method, path, signature, body string
		status                        int
	}{
		{"GET", "/assessments/a", "wrong", "", 401},
		{"GET", "/assessments/" + strings.Repeat("x", 65), "signature", "", 404},
		{"POST", "/assessments/a/login-result", "signature", `{"result":"SUCCESS"}`, 204},
		{"POST", "/assessments/a/login-result", "signature", `{"result":"OK"}`, 422},
		{"POST", "/assessments/a/feedback", "signature", `{"result":"NG","comment":"stolen"}`, 204},
		{"POST", "/assessments/a/feedback", "signature", `nonsense`, 422},
		{"GET", "/devices", "signature", "", 200},
	} {
		if res, body := call(tc.method, tc.path, "bob", tc.signature, tc.body); res.StatusCode != tc.status {
			t.Errorf("%s %s: %s %s", tc.method, tc.path, res.Status, body)
		}
	}
	req := newRequest(t, "GET", base+"/omotion/assessments/a", "", "")
	req.Header.Set("X-Omotion-Signature", "signature")
	if res, body := do(t, req); res.StatusCode != 400 {
		t.Errorf("without a user: %s %s", res.Status, body)
	}
}
