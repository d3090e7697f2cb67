package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/gateway/pages"
	"github.com/sekisho/sekisho/services/internal/httpapi"
	"github.com/sekisho/sekisho/services/internal/policy"
	"github.com/sekisho/sekisho/services/internal/runtime"
)

// startBody is the body of POST /v1/logins.
type startBody struct {
	User       string        `json:"user"`
	Method     events.Method `json:"method"`
	Password   string        `json:"password"`
	App        string        `json:"app"`
	ACR        string        `json:"acr"`
	Code       string        `json:"code"`
	Assessment string        `json:"assessment"`
	Locale     string        `json:"locale"`
	ReturnTo   string        `json:"return_to"`
	Tokens     bool          `json:"tokens"`
	Wait       string        `json:"wait"`

	byToken bool // of the page's form for tokens, which may come without a code: some tokens need a question first
}

// start answers POST /v1/logins.
func (g *gateway) start(w http.ResponseWriter, r *http.Request) error {
	var in startBody
	if err := httpapi.Decode(w, r, g.cfg.Gateway.MaxBody, &in); err != nil {
		return err
	}
	wait, err := duration("wait", in.Wait, g.cfg.Gateway.Wait, g.cfg.Gateway.MaxWait)
	if err != nil {
		return err
	}
	login, err := g.begin(r, in, g.border.cookiesCount(r))
	if err != nil {
		return err
	}
	state, err := g.await(w, r, login, wait, begun(in))
	if err != nil {
		return err
	}
	view, err := g.view(r, state, in.Tokens)
	if err != nil {
		return err
	}
	if in.Tokens {
		view.LoginToken, err = g.keys.token(loginSecret, login)
	} else {
		err = g.setLogin(w, login, in.ReturnTo)
	}
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/logins/"+login.ID)
	return g.write(w, r, http.StatusCreated, view, in.Tokens)
}

// begun tells that a login has come to where its starter must do something, or to its end. A code that came with the name answers a
// token's challenge, so that there the verdict is waited for.
func begun(in startBody) func(*events.State) bool {
	return func(s *events.State) bool {
		c := s.Challenge()
		return s.Ended() || c != nil && (in.Code == "" || c.Factor != events.Token || c.Rejected != "")
	}
}

const (
	maxUser     = 256  // bytes
	maxPassword = 1024 // bytes
	minCode     = 6    // digits; a code by text message has no more
	maxCode     = 18   // digits; OATH and DIGIPASS tokens show 6 to 10, before which a PIN of up to 8 is typed
)

var (
	assessmentID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	traceparent  = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)
)

// collectorCookie is where the risk provider's script leaves the id of its assessment.
const collectorCookie = "omotion_assessment"

// check reports the first field that is wrong.
func (g *gateway) check(r *http.Request, in *startBody) error {
	app := g.policy.Policy().Apps[in.App]
	switch {
	case in.Method == fromSession && in.User != "":
		return httpapi.Invalid("user", "the session says who it is")
	case in.Method != fromSession && (len(in.User) == 0 || len(in.User) > maxUser || !utf8.ValidString(in.User)):
		return httpapi.Invalid("user", "want 1 to 256 bytes")
	case app == nil:
		return httpapi.Invalid("app", "there is no such app")
	case in.Method != events.Password && in.Method != events.None && in.Method != fromSession:
		return httpapi.Invalid("method", "want password, none or session")
	case in.Method != fromSession && !app.Accepts(in.Method):
		return httpapi.Invalid("method", "the app does not accept it")
	case in.Method == events.Password && (len(in.Password) == 0 || len(in.Password) > maxPassword || !utf8.ValidString(in.Password)):
		return httpapi.Invalid("password", "want 1 to 1024 bytes")
	case in.Method != events.Password && in.Password != "":
		return httpapi.Invalid("password", "goes with method password only")
	case in.ACR != "" && factorsOf(in.ACR) == 0:
		return httpapi.Invalid("acr", "want 1fa, 2fa or 3fa")
	case in.Code != "" && !isCode(in.Code, minCode, maxCode):
		return httpapi.Invalid("code", "want 6 to 18 digits")
	case in.Assessment != "" && !assessmentID.MatchString(in.Assessment):
		return httpapi.Invalid("assessment", "want 1 to 64 letters, digits, '.', '_', '-'")
	case in.Locale != "" && in.Locale != "ja" && in.Locale != "en":
		return httpapi.Invalid("locale", "want ja or en")
	}
	if in.ReturnTo != "" {
		var ok bool
		if in.ReturnTo, ok = g.border.returnTo(g.border.own(r), in.ReturnTo); !ok {
			return httpapi.Invalid("return_to", "want a path, or a URL of an allowed origin")
		}
	}
	return nil
}

// acrOf is the acr of so many factors, which is empty for none.
func acrOf(factors int) string {
	if factors == 0 {
		return ""
	}
	return fmt.Sprintf("%dfa", factors)
}

// factorsOf is how many factors an acr stands for, 0 if it is none that could be asked for.
func factorsOf(acr string) int {
	for n := policy.MaxNeed; n > 0; n-- {
		if acr == acrOf(n) {
			return n
		}
	}
	return 0
}

// begin checks what the user asks for and starts the login, which a code that comes along is to answer. cookies tells whether the
// request's cookies speak for their owner.
func (g *gateway) begin(r *http.Request, in startBody, cookies bool) (events.Login, error) {
	if err := g.check(r, &in); err != nil {
		return events.Login{}, err
	}
	source := g.border.source(r)
	if wait := g.limits.take(source, g.now()); wait > 0 {
		return events.Login{}, &httpapi.Problem{Status: http.StatusTooManyRequests, RetryAfter: wait}
	}
	if in.Assessment == "" && cookies {
		if id := cookieValue(r, collectorCookie); assessmentID.MatchString(id) {
			in.Assessment = id
		}
	}
	in.Locale = cmp.Or(in.Locale, pages.Asked(r.Header.Get("Accept-Language"))) // or else the user's own
	login, err := events.NewLogin(g.cfg.Gateway.Name)
	if err != nil {
		return events.Login{}, err
	}
	device := g.device(r, cookies)
	request := events.Request{
		Login: login, Prompt: g.prompt(r, in.App, in.Locale, login),
		App: in.App, Need: factorsOf(in.ACR), Method: in.Method, User: in.User, Password: in.Password, Locale: in.Locale,
		SourceTag: g.keys.tag(source.String()), Device: device.ID, DeviceUsers: device.Users,
		Environment: &events.Environment{
			IP: g.border.client(r).String(), UserAgent: cut(r.UserAgent()), Languages: cut(r.Header.Get("Accept-Language")),
			Assessment: in.Assessment, Device: device.ID,
		},
	}
	if in.Method == fromSession {
		s, err := g.stepUp(r, in.App, request.Need, cookies)
		if err != nil {
			return events.Login{}, err
		}
		request.Method, request.User, request.Session = events.None, s.Name, s.Login.ID
	}
	if in.Code != "" || in.byToken {
		request.Prefer = events.Token
	}
	if trace := r.Header.Get("Traceparent"); traceparent.MatchString(trace) {
		request.Trace = trace
	}
	g.sessions.begin(login, request.User)
	if login, err = g.client.Request(r.Context(), request); err != nil {
		return events.Login{}, err
	}
	noteLogin(r, login)
	if in.Code != "" {
		g.answerWhenAsked(login, in.Code)
	}
	return login, nil
}

// cut bounds what a client says of itself.
func cut(s string) string { return s[:min(len(s), 512)] }

// answerWhenAsked answers the login's first challenge with a code of the user's token, which came with the user's name. Where that
// challenge is another factor's, or this process ends before, the code is forgotten and the user is asked. A question does not
// matter: it is put to everybody, and who has a token that needs none has the right code without it.
// It outlives the request, which may not wait so long.
func (g *gateway) answerWhenAsked(login events.Login, code string) {
	g.answering.Go(func() {
		for state, err := range g.client.Watch(g.ctx, login) {
			if err != nil {
				return // the user is asked, as without a code
			}
			c := state.Challenge()
			if c == nil {
				continue
			}
			if c.Factor == events.Token {
				_, err = g.client.Answer(g.ctx, login, code)
			}
			if err != nil && !errors.Is(err, events.ErrEnded) { // the user may have given up meanwhile
				g.log.Warn().Err(err).Str("login", login.String()).Msg("code was not passed on")
			}
			return
		}
	})
}

// where answers GET /v1/logins/{id}.
func (g *gateway) where(w http.ResponseWriter, r *http.Request) error {
	login, bearer, err := g.starter(r)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	after, err := number("after", query.Get("after"))
	if err != nil {
		return err
	}
	wait, err := duration("wait", query.Get("wait"), g.cfg.Gateway.MaxPoll, g.cfg.Gateway.MaxPoll)
	if err != nil {
		return err
	}
	if !query.Has("after") {
		wait = 0 // every login has a version greater than none
	}
	state, err := g.await(w, r, login, wait, func(s *events.State) bool { return s.Version() > after })
	if err != nil {
		return err
	}
	return g.show(w, r, http.StatusOK, state, bearer)
}

// answer answers POST /v1/logins/{id}/answers.
func (g *gateway) answer(w http.ResponseWriter, r *http.Request) error {
	login, bearer, err := g.starter(r)
	if err != nil {
		return err
	}
	var in struct {
		Code string `json:"code"`
		Wait string `json:"wait"`
	}
	if err := httpapi.Decode(w, r, g.cfg.Gateway.MaxBody, &in); err != nil {
		return err
	}
	wait, err := duration("wait", in.Wait, g.cfg.Gateway.Wait, g.cfg.Gateway.MaxWait)
	if err != nil {
		return err
	}
	judged, err := g.tryCode(r.Context(), login, in.Code)
	if err != nil {
		return err
	}
	return g.showOutcome(w, r, login, wait, bearer, judged)
}

// tryCode answers the login's challenge, and returns what tells that there is a verdict.
func (g *gateway) tryCode(ctx context.Context, login events.Login, code string) (judged func(*events.State) bool, err error) {
	state, err := g.client.State(ctx, login)
	if err != nil {
		return nil, err
	}
	challenge, most := state.Challenge(), maxCode
	switch {
	case state.Ended():
		return nil, events.ErrEnded
	case challenge == nil || challenge.Factor == events.Push:
		return nil, events.ErrNotAsked
	case challenge.Factor == events.SMS:
		most = minCode
	}
	if !isCode(code, minCode, most) {
		return nil, httpapi.Invalid("code", "want the digits of the code, and nothing else")
	}
	attempt, err := g.client.Answer(ctx, login, code)
	if err != nil {
		return nil, err
	}
	round := state.Round()
	return func(s *events.State) bool {
		rejected := s.Rejected[attempt] // the last one ends the login
		return rejected != nil && rejected.AttemptsLeft > 0 || s.Round() > round || s.Ended()
	}, nil
}

func isCode(s string, least, most int) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(s) >= least && len(s) <= most
}

// factor answers POST /v1/logins/{id}/factor.
func (g *gateway) factor(w http.ResponseWriter, r *http.Request) error {
	login, bearer, err := g.starter(r)
	if err != nil {
		return err
	}
	var in struct {
		Factor events.Factor `json:"factor"`
		Wait   string        `json:"wait"`
	}
	if err := httpapi.Decode(w, r, g.cfg.Gateway.MaxBody, &in); err != nil {
		return err
	}
	wait, err := duration("wait", in.Wait, g.cfg.Gateway.Wait, g.cfg.Gateway.MaxWait)
	if err != nil {
		return err
	}
	if !slices.Contains(events.Factors, in.Factor) {
		return httpapi.Invalid("factor", "want sms, push or token")
	}
	left, err := g.client.Choose(r.Context(), login, in.Factor)
	if err != nil {
		return err
	}
	return g.showOutcome(w, r, login, wait, bearer, func(s *events.State) bool { return s.Round() > left || s.Ended() })
}

// cancel answers DELETE /v1/logins/{id}.
func (g *gateway) cancel(w http.ResponseWriter, r *http.Request) error {
	login, bearer, err := g.starter(r)
	if err != nil {
		return err
	}
	if err := g.client.Cancel(r.Context(), login); err != nil {
		return err
	}
	state, err := g.await(w, r, login, g.cfg.Gateway.Wait, (*events.State).Ended)
	if err != nil {
		return err
	}
	return g.show(w, r, http.StatusOK, state, bearer)
}

// showOutcome waits until done, and answers 200 if it is, else 202.
func (g *gateway) showOutcome(w http.ResponseWriter, r *http.Request, login events.Login, wait time.Duration, bearer bool, done func(*events.State) bool) error {
	state, err := g.await(w, r, login, wait, done)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if !done(state) {
		status = http.StatusAccepted
	}
	return g.show(w, r, status, state, bearer)
}

// starter is the login of the path, if the request carries the secret that only its starter has. Without it there is no such login.
func (g *gateway) starter(r *http.Request) (login events.Login, bearer bool, err error) {
	token, bearer := bearerToken(r)
	ok := false
	if bearer {
		login, ok = g.keys.login(loginSecret, token)
	} else if g.border.cookiesCount(r) {
		login, _, ok = g.browserLogin(r)
	}
	if !ok || login.ID != r.PathValue("id") {
		return events.Login{}, bearer, &httpapi.Problem{Status: http.StatusNotFound}
	}
	noteLogin(r, login)
	return login, bearer, nil
}

// await is where the login stands as soon as done, or after wait.
func (g *gateway) await(w http.ResponseWriter, r *http.Request, login events.Login, wait time.Duration, done func(*events.State) bool) (*events.State, error) {
	if wait <= 0 {
		return g.client.State(r.Context(), login)
	}
	if err := holdOpen(w); err != nil {
		return nil, err
	}
	g.metrics.waiting.Inc()
	defer g.metrics.waiting.Dec()
	waiting, leave := runtime.Waiting(r)
	defer leave()
	ctx, cancel := context.WithTimeout(waiting, wait)
	defer cancel()
	var last *events.State
	for state, err := range g.client.Watch(ctx, login) {
		if err != nil {
			return nil, err
		}
		if last = state; done(state) {
			break
		}
	}
	if last == nil { // the wait was too short to read anything
		return g.client.State(r.Context(), login)
	}
	return last, nil
}

// holdOpen lifts the server's time-out for reading: it goes on while a handler waits, and would end the request's context.
func holdOpen(w http.ResponseWriter) error {
	err := http.NewResponseController(w).SetReadDeadline(time.Time{})
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// duration reads a time span of the API; more than most counts as most.
func duration(field, text string, unset, most time.Duration) (time.Duration, error) {
	if text == "" {
		return unset, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, httpapi.Invalid(field, `want a time span such as "5s"`)
	}
	return min(d, most), nil
}

func number(field, text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, httpapi.Invalid(field, "want a number")
	}
	return n, nil
}
