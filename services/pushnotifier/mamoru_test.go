package pushnotifier

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/services/internal/provider"
	"github.com/sekisho/sekisho/services/internal/testenv"
	"github.com/sekisho/sekisho/services/simulators"
)

func mamoruTo(t testing.TB, far vendorsFar, base provider.Settings) *Mamoru {
	return NewMamoru(clients(t, base)(provider.Settings{Name: "mamoru"}), MamoruConfig{
		URL: far.url + "/mamoru", ApproveURL: far.url + "/mamoru/approve", Token: farToken,
	})
}

// mamoruPage goes to the provider's page as the browser does, decides, and returns what the browser brings back.
func mamoruPage(t testing.TB, page, decision string) map[string]string {
	t.Helper()
	u, err := url.Parse(page)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set("return", "http://127.0.0.1:8080/login/1/return?keep=1")
	u.RawQuery = query.Encode()
	res, err := http.Get(u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if html, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(html), "はい") {
		t.Fatal(res.Status, err)
	}
	query.Set("decision", decision)
	u.RawQuery = ""
	browser := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err = browser.PostForm(u.String(), query)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	back, err := res.Location()
	if err != nil || res.StatusCode != http.StatusSeeOther || back.Host != "127.0.0.1:8080" || back.Query().Get("keep") != "1" {
		t.Fatal(res.Status, back, err)
	}
	return map[string]string{mamoruSession: back.Query().Get(mamoruSession), mamoruApproved: back.Query().Get(mamoruApproved)}
}

func startMamoru(t testing.TB, m *Mamoru, account, login string) string {
	t.Helper()
	page, err := m.Start(t.Context(), account, login)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func TestMamoruApproval(t *testing.T) {
	m := mamoruTo(t, startVendors(t, nil), provider.Settings{})
	for decision, want := range map[string]Decision{"approved": Approved, "denied": Denied} {
		parameters := mamoruPage(t, startMamoru(t, m, "alice", "web/1"), decision)
		parameters["state"] = "the gateway's own"
		for _, want := range []Decision{want, Void} { // a pair is good once
			if got, err := m.Verify(t.Context(), "alice", "web/1", parameters); err != nil || got != want {
				t.Errorf("%s: %s, %v; want %s", decision, got, err, want)
			}
		}
	}
}

func TestMamoruVoid(t *testing.T) {
	now := time.Now()
	far := startVendors(t, func() time.Time { return now })
	m := mamoruTo(t, far, provider.Settings{})
	pair := func() map[string]string { return mamoruPage(t, startMamoru(t, m, "alice", "web/1"), "approved") }
	mixed, other := pair(), pair()
	mixed[mamoruApproved] = other[mamoruApproved]
	late := pair()
	for name, tc := range map[string]struct {
		account, login string
		parameters     map[string]string
		pass           time.Duration
	}{
		"another account":     {"bob", "web/1", pair(), 0},
		"another login":       {"alice", "web/2", pair(), 0},
		"halves of two pairs": {"alice", "web/1", mixed, 0},
		"invented":            {"alice", "web/1", map[string]string{mamoruSession: strings.Repeat("A", 26), mamoruApproved: strings.Repeat("A", 26)}, 0},
		"out of time":         {"alice", "web/1", late, 2 * time.Minute},
	} {
		now = now.Add(tc.pass)
		if got, err := m.Verify(t.Context(), tc.account, tc.login, tc.parameters); err != nil || got != Void {
			t.Errorf("%s: %s, %v", name, got, err)
		}
		now = now.Add(-tc.pass)
	}
}

// What can not be a pair is not worth a call.
func TestMamoruMalformedPairs(t *testing.T) {
	far := startVendors(t, nil)
	m := mamoruTo(t, far, provider.Settings{})
	good := strings.Repeat("A", 26)
	for _, parameters := range []map[string]string{
		nil, {}, {mamoruSession: good}, {mamoruSession: good, "mamoru": good}, {mamoruSession: "", mamoruApproved: ""},
		{mamoruSession: good, mamoruApproved: "short"}, {mamoruSession: good + "\n", mamoruApproved: good},
		{mamoruSession: strings.Repeat("A", 129), mamoruApproved: good},
	} {
		if got, err := m.Verify(t.Context(), "alice", "web/1", parameters); err != nil || got != Void {
			t.Errorf("%v: %s, %v", parameters, got, err)
		}
	}
	if calls := far.Calls(simulators.Push); len(calls) != 0 {
		t.Errorf("calls went out: %v", calls)
	}
}

func TestMamoruDecisionIsAboutThisLogin(t *testing.T) {
	for body, want := range map[string]Decision{
		`{"account":"alice","login":"web/1","result":"approved"}`: Approved,
		`{"account":"alice","login":"web/1","result":"denied"}`:   Denied,
		`{"account":"alice","login":"web/1","result":"void"}`:     Void,
		`{"account":"bob","login":"web/1","result":"approved"}`:   "",
		`{"account":"alice","login":"web/2","result":"approved"}`: "",
		`{"account":"alice","login":"web/1","result":"yes"}`:      "",
		`{"result":"approved"}`:                                   "",
	} {
		got, err := mamoruDecision(&provider.Response{Status: 200, Body: []byte(body)}, "alice", "web/1")
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %s, %v", body, got, err)
		}
	}
}

func TestMamoruFaults(t *testing.T) {
	testenv.EachFault(t, func(t *testing.T, fault simulators.Fault, timeout time.Duration, want error) {
		far := startVendors(t, nil)
		parameters := mamoruPage(t, startMamoru(t, mamoruTo(t, far, provider.Settings{}), "alice", "web/1"), "approved")
		far.fault(t, fault.Mode, fault.Delay)
		m := mamoruTo(t, far, provider.Settings{Timeout: timeout})
		if page, err := m.Start(t.Context(), "alice", "web/1"); !errors.Is(err, want) || (err == nil) != (page != "") {
			t.Errorf("Start: %q, %v; want %v", page, err, want)
		}
		got, err := m.Verify(t.Context(), "alice", "web/1", parameters)
		if !errors.Is(err, want) || (err == nil) != (got == Approved) || err != nil && got != "" {
			t.Errorf("Verify: %s, %v; want %v", got, err, want)
		}
	})
}

func TestMamoruBreaker(t *testing.T) {
	far := startVendors(t, nil)
	m := mamoruTo(t, far, provider.Settings{Failures: 1, Open: time.Hour})
	far.fault(t, simulators.Error, 0)
	for _, want := range []error{provider.ErrUnavailable, provider.ErrOpen} {
		if _, err := m.Start(t.Context(), "alice", "web/1"); !errors.Is(err, want) {
			t.Fatalf("%v, want %v", err, want)
		}
	}
}

func TestMamoruWrongTokenIsOurFault(t *testing.T) {
	m := mamoruTo(t, startVendors(t, nil), provider.Settings{})
	m.config.Token = "wrong"
	if _, err := m.Start(t.Context(), "alice", "web/1"); !errors.Is(err, provider.ErrUnavailable) {
		t.Fatal(err)
	}
}

// The browser goes to the configured page, whatever the provider's answer says.
func TestMamoruAnswersAreReadStrictly(t *testing.T) {
	for body, ok := range map[string]bool{
		`{"approval":"a-1","url":"https://evil.example"}`: true,
		`{"approval":"../a"}`:                             false,
		`{"approval":"a&return=x"}`:                       false,
		`{"approval":""}`:                                 false,
		`{}`:                                              false,
		``:                                                false,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(body)) }))
		m := mamoruTo(t, vendorsFar{url: server.URL}, provider.Settings{})
		page, err := m.Start(t.Context(), "alice", "web/1")
		if (err == nil) != ok || ok && page != server.URL+"/mamoru/approve?approval=a-1" || !ok && !errors.Is(err, provider.ErrUnavailable) {
			t.Errorf("%s: %q, %v", body, page, err)
		}
		m.Close()
		server.Close()
	}
}

func FuzzMamoruAnswer(f *testing.F) {
	f.Add(200, []byte(`{"account":"alice","login":"web/1","result":"approved"}`))
	f.Add(200, []byte(`{"account":"bob","login":"web/1","result":"approved"}`))
	f.Add(200, []byte(`{"account":"alice","login":"web/1","result":"APPROVED"}`))
	f.Add(500, []byte(`{"error":"internal"}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		r := &provider.Response{Status: status, Body: body}
		got, err := mamoruDecision(r, "alice", "web/1")
		if (err != nil || r.Class() != nil) != (got == "") {
			t.Fatalf("%q with status %d, %v", got, status, err)
		}
		if got != "" && got != Approved && got != Denied && got != Void {
			t.Fatalf("%q is no decision", got)
		}
	})
}
