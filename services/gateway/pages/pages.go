// Package pages draws what people see while they log in: the sign-in form, the one page that follows a
// login from waiting to its end, the protected demo app, and the pages for what went wrong.
//
// Every page works without JavaScript: plain forms answered by 303, and a refresh while there is nothing
// to do but wait. The module assets/login.js then adds live updates. It expects the login API of the same
// origin: unnamed server-sent events whose data is the login's JSON, with "alive" ones between them, and the long poll; and for an invitation
// the list of the user's phones.
//
// The pages hold no inline script and no inline style, so that the gateway can send a policy of
// default-src 'none' with script-src, style-src, img-src, connect-src and form-action 'self'.
package pages

import (
	"html/template"
	"net/url"
	"slices"
	"time"
)

// A Page is the content of one page. Only the types of this package are pages.
type Page interface {
	template() string
}

// SignIn is the form that starts a login. It posts csrf, app, acr, return_to, user, password and method
// ("password" or "none") to /login; the form for tokens posts with ("token") and code in place of the last two, and code may be empty.
type SignIn struct {
	App, AppName string
	ACR          string // such as "2fa": at least this many factors are asked for
	CSRF         string
	ReturnTo     string
	User         string // what the person typed before, so that a problem does not cost it
	Password     bool   // the app accepts a password
	Passwordless bool   // the app accepts a user name alone, and not only of token users
	Phone        bool   // with Passwordless: the phone may be what follows
	Token        bool   // the app accepts a user name and a one-time password
	WithToken    bool   // with Token: the form for them is shown, instead of that for the others
	Question     bool   // with Token: some tokens are asked a question first, and have no code before that
	Problem      string // "", "limited", "bad_user", "bad_password", "bad_code" or "unavailable"
	Collector    string // URL of the risk provider's script, whose origin the gateway allows in the content policy
}

// SignInURL is where the form is, or StepUp if that will do. acr and returnTo may be empty; with anew it is the form, whoever is logged in.
func SignInURL(app, acr, returnTo string, anew bool) string {
	query := url.Values{"app": {app}}
	if acr != "" {
		query.Set("acr", acr)
	}
	if returnTo != "" {
		query.Set("return_to", returnTo)
	}
	if anew {
		query.Set("anew", "1")
	}
	return "/login?" + query.Encode()
}

// StepUp asks a person who is logged in to show one more factor. It posts csrf, app, acr, return_to and method ("session")
// to /login.
type StepUp struct {
	App, AppName string
	ACR          string // as in SignIn
	CSRF         string
	ReturnTo     string
	User         string
}

// Login follows one login through all of its states. Its forms post to /login/{ID}/answers (csrf, code),
// /login/{ID}/factor (csrf, factor) and /login/{ID}/cancel (csrf, and then, which is "password" to go on with one).
//
// Notice is empty, "wrong_code", "bad_code", "checking", "expired_code", "expired_last" (there is no other), "undelivered" (a text message),
// "undelivered_push", "resent", "resent_push", "too_soon", "too_soon_push" or "too_soon_token"; of a push "wrong_number", "declined" or "not_counted", and "exhausted"
// where its challenge is so; of a token "wrong_token", "bad_token" or "expired_token" (which is the login's own time).
type Login struct {
	ID, CSRF     string
	App, AppName string
	ACR          string // as in SignIn
	ReturnTo     string // where the person goes on after "granted"; the gateway has checked its origin
	Status       string // "pending", "challenge", "granted", "denied", "failed", "expired" or "cancelled"
	Reason       string // with "failed": "attempts", "undelivered", else taken for "unavailable"
	Version      int    // as the login API counts; the script fetches the page again when it grows
	Deadline     time.Time
	Challenge    *Challenge           // with "challenge" only
	Choices      []string             // factors that may be asked for, the present one included
	Again        map[string]time.Time // when each may be asked for; zero, or absent, where at once
	Notice       string
	Declined     bool      // with "denied": the user declined on a phone
	SignedIn     bool      // with "cancelled": this browser still has a session
	Now          time.Time // the server's clock, so that countdowns survive a wrong clock in the browser

	PasswordInstead bool // a login by ID to an app that takes a password too; the same for every name
	WithToken       bool // the login began with the form for tokens, to which "start again" leads
}

// A Challenge is what the person is asked to do in one round.
type Challenge struct {
	Round        int
	Factor       string // "sms", "push" or "token"
	Hint         string // masked phone number or device name
	Expires      time.Time
	ResendAt     time.Time // zero where sending again has no meaning
	AttemptsLeft int
	Number       string // push: the number to enter on the phone; empty where the phone does not ask for it
	URL          string // push: where a provider hosts the approval; empty where the phone is asked
	Exhausted    bool   // push: it takes no more answers in this login
	Expired      bool   // an answer came too late
	Question     string // token: the number to key into it
}

// Home is the protected demo app: who is logged in, and how. Its form posts csrf to /logout.
type Home struct {
	User         string
	App, AppName string
	AMR          []string // RFC 8176 values, in the order of the login
	ACR          string
	AuthTime     time.Time
	Expires      time.Time
	CSRF         string
}

// Devices is the list of a user's phones. Its forms post csrf to /devices (add), /devices/{ID} (csrf, name) and
// /devices/{ID}/remove.
type Devices struct {
	User    string
	App     string // that the session is for, to log in to again
	Fresh   bool   // the session is young enough to change anything
	Devices []Device
	CSRF    string
	Problem string // "", "bad_name" or "too_many"
}

// A Device is a phone that approves logins.
type Device struct {
	ID, Name       string
	Enrolled, Seen time.Time
}

// Invitation is the link by which a phone becomes the user's.
type Invitation struct {
	URL     string
	QR      template.URL // the same as a picture
	Expires time.Time
	Now     time.Time
}

// SignedOut confirms a log-out.
type SignedOut struct {
	App, AppName string
}

// Problem is an HTTP error as a page.
type Problem struct {
	Status  int
	OnPhone bool // below the authenticator, to which the way leads back
	Start   bool // on the start page itself, to which there is nothing but another try
	Posted  bool // the answer to a form, whose address shows nothing
}

func (SignIn) template() string     { return "signin" }
func (StepUp) template() string     { return "stepup" }
func (Login) template() string      { return "login" }
func (Home) template() string       { return "home" }
func (SignedOut) template() string  { return "signedout" }
func (Devices) template() string    { return "devices" }
func (Invitation) template() string { return "invitation" }
func (Problem) template() string    { return "problem" }

// Waiting reports whether the person has nothing to type here, so that the page may reload by itself.
func (l Login) Waiting() bool {
	return l.Status == "pending" || l.Status == "challenge" && l.Challenge.Factor == "push" && l.PushEnd() == ""
}

// PushEnd is why a push takes no more answers, so that the person has to do something else: "exhausted" or "expired". It is
// empty while the push takes some, and for other factors, whose code is typed into the page itself.
func (l Login) PushEnd() string {
	if l.Challenge == nil || l.Challenge.Factor != "push" {
		return ""
	}
	switch {
	case l.Challenge.Exhausted:
		return "exhausted"
	case l.over():
		return "expired"
	default:
		return ""
	}
}

// CodeOver reports whether the code that is asked for has run out, so that the person needs another.
func (l Login) CodeOver() bool {
	return l.Challenge != nil && l.Challenge.Factor != "push" && (l.Challenge.Expired || l.over())
}

func (l Login) over() bool {
	until := l.Until()
	return !until.IsZero() && !until.After(l.Now)
}

// Others returns the factors that the person may change to.
func (l Login) Others() []string {
	return slices.DeleteFunc(slices.Clone(l.Choices), func(factor string) bool { return factor == l.Challenge.Factor })
}

// Until returns when the challenge ends: its own end or the login's deadline, whichever is earlier.
func (l Login) Until() time.Time {
	if e := l.Challenge.Expires; !e.IsZero() && (l.Deadline.IsZero() || e.Before(l.Deadline)) {
		return e
	}
	return l.Deadline
}

// Rejected reports whether the code just sent was not accepted.
func (l Login) Rejected() bool {
	return slices.Contains([]string{"wrong_code", "bad_code", "wrong_token", "bad_token"}, l.Notice)
}

// AppName is empty: phones are the user's, not an app's, and a problem may be anybody's.
func (Devices) AppName() string    { return "" }
func (Invitation) AppName() string { return "" }
func (Problem) AppName() string    { return "" }

// Kind returns the status whose texts the catalogs hold: the same, or the most general of its class.
func (p Problem) Kind() int {
	switch {
	case slices.Contains([]int{400, 403, 404, 429, 500, 503}, p.Status):
		return p.Status
	case p.Status >= 500:
		return 500
	default:
		return 400
	}
}
