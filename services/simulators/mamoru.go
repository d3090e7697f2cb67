package simulators

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"
)

// mamoru is Mamoru PUSH: approvals on a page of the provider. The page stands for the user's phone too. The paths and
// names are ours, since the vendor's are not public.
type mamoru struct {
	token string
	now   func() time.Time

	mu        sync.Mutex
	approvals map[string]*approval // by id
}

type approval struct {
	account, login    string
	ends              time.Time
	result            string // approved or denied, once the user has decided
	session, approved string // the two one-time secrets, made by the decision
}

const approvalLife = 2 * time.Minute

func newMamoru(cfg Config) *mamoru {
	return &mamoru{token: cfg.MamoruToken, now: cfg.Now, approvals: make(map[string]*approval)}
}

func (m *mamoru) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /mamoru/approvals", m.customer(m.start))
	mux.HandleFunc("POST /mamoru/approvals/verify", m.customer(m.verify))
	mux.HandleFunc("GET /mamoru/approve", m.page)
	mux.HandleFunc("POST /mamoru/approve", m.decide)
	return mux
}

func mamoruFailure(w http.ResponseWriter, _ *http.Request) {
	mamoruError(w, http.StatusInternalServerError, "internal")
}

func mamoruError(w http.ResponseWriter, status int, code string) {
	writeJSON(w, status, map[string]string{"error": code})
}

type approvalRequest struct{ Account, Login, Session, Approved string }

// customer lets those in who have the token.
func (m *mamoru) customer(next func(http.ResponseWriter, approvalRequest)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+m.token)) != 1 {
			mamoruError(w, http.StatusUnauthorized, "token")
			return
		}
		var body approvalRequest
		if json.NewDecoder(r.Body).Decode(&body) != nil || body.Account == "" || body.Login == "" {
			mamoruError(w, http.StatusUnprocessableEntity, "account and login are required")
			return
		}
		next(w, body)
	}
}

func (m *mamoru) start(w http.ResponseWriter, body approvalRequest) {
	id, now := rand.Text(), m.now()
	m.mu.Lock()
	for old, a := range m.approvals {
		if now.After(a.ends) || len(m.approvals) == kept {
			delete(m.approvals, old)
		}
	}
	m.approvals[id] = &approval{account: body.Account, login: body.Login, ends: now.Add(approvalLife)}
	m.mu.Unlock()
	writeJSON(w, http.StatusCreated, map[string]string{"approval": id})
}

// verify answers once for each pair of secrets.
func (m *mamoru) verify(w http.ResponseWriter, body approvalRequest) {
	result := "void"
	m.mu.Lock()
	for id, a := range m.approvals {
		if a.result == "" || a.session != body.Session || a.approved != body.Approved {
			continue
		}
		if a.account == body.Account && a.login == body.Login && m.now().Before(a.ends) {
			result = a.result
		}
		delete(m.approvals, id) // a pair that was shown for the wrong login is used up too
	}
	m.mu.Unlock()
	writeJSON(w, http.StatusOK, map[string]string{"account": body.Account, "login": body.Login, "result": result})
}

var approvePage = template.Must(template.New("").Parse(`<!doctype html>
<html lang="ja">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Mamoru PUSH</title>
<h1>Mamoru PUSH</h1>
<p>{{.Account}} のログインを承認しますか。</p>
<form method="post" action="approve">
<input type="hidden" name="approval" value="{{.ID}}">
<input type="hidden" name="return" value="{{.Return}}">
<button name="decision" value="approved">はい</button>
<button name="decision" value="denied">いいえ</button>
</form>
`))

// open finds an approval that the user has not decided, and whose browser may go back to where it wants. The caller holds m.mu.
func (m *mamoru) open(w http.ResponseWriter, r *http.Request) (id string, back *url.URL, a *approval) {
	id = r.FormValue("approval")
	back, err := url.Parse(r.FormValue("return"))
	if err != nil || !mayReturn(back, r.Host) {
		mamoruError(w, http.StatusBadRequest, "return")
		return "", nil, nil
	}
	a = m.approvals[id]
	if a == nil || a.result != "" || !m.now().Before(a.ends) {
		mamoruError(w, http.StatusNotFound, "approval")
		return "", nil, nil
	}
	return id, back, a
}

// mayReturn stands for the addresses that a customer registers with the vendor: here those of this machine, by whatever name
// it was reached. Any other address would be given the secrets.
func mayReturn(to *url.URL, host string) bool {
	if to.Scheme != "http" && to.Scheme != "https" {
		return false
	}
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip, err := netip.ParseAddr(to.Hostname())
	return to.Hostname() == host || to.Hostname() == "localhost" || err == nil && ip.IsLoopback()
}

func (m *mamoru) page(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	id, back, a := m.open(w, r)
	m.mu.Unlock() // a browser that does not read its page holds up nobody; what is shown of an approval never changes
	if a == nil {
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	approvePage.Execute(w, map[string]string{"Account": a.account, "ID": id, "Return": back.String()}) // fails only where the client is gone
}

func (m *mamoru) decide(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, back, a := m.open(w, r)
	if a == nil {
		return
	}
	decision := r.FormValue("decision")
	if decision != "approved" && decision != "denied" {
		mamoruError(w, http.StatusUnprocessableEntity, "decision")
		return
	}
	a.result, a.session, a.approved = decision, rand.Text(), rand.Text()
	query := back.Query()
	query.Set("mamoru_session", a.session)
	query.Set("mamoru_approved", a.approved)
	back.RawQuery = query.Encode()
	http.Redirect(w, r, back.String(), http.StatusSeeOther)
}
