// Package policy is what each app asks of a login: which methods and factors it accepts, and how many factors a login needs,
// depending on the risk assessment. The file explains itself: see default.yaml.
package policy

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/sekisho/sekisho/events"
)

//go:embed default.yaml
var builtIn []byte

// MaxNeed is the highest number of factors that a policy may ask for.
const MaxNeed = 3

// A Policy is one policy file. It is never changed after it has been loaded.
type Policy struct {
	Apps map[string]*App `yaml:"apps"`
	hash string
}

// An App is what one app asks for.
type App struct {
	Name                Name            `yaml:"name"`
	Methods             []events.Method `yaml:"methods"`              // how a login may start
	Factors             []events.Factor `yaml:"factors"`              // in order of preference
	PasswordlessFactors []events.Factor `yaml:"passwordless_factors"` // of Factors, those that may be the first proof of all
	OnOK                Need            `yaml:"on_ok"`
	OnReview            Need            `yaml:"on_review"`
	OnNG                Need            `yaml:"on_ng"`
	OnUnavailable       Unavailable     `yaml:"on_unavailable"`
	SessionMaxAge       Span            `yaml:"session_max_age"` // how long after its login a session of another app counts
	PushTap             bool            `yaml:"push_tap"`        // a push is approved without its number
}

// Name is an app's name as people see it.
type Name struct {
	EN string `yaml:"en"`
	JA string `yaml:"ja"`
}

// In is the name in a language: "ja", or English.
func (n Name) In(language string) string {
	if language == "ja" {
		return n.JA
	}
	return n.EN
}

// Need is how many factors a login needs: 1 to [MaxNeed], or [Deny].
type Need int

// Deny is the Need that nothing meets.
const Deny Need = -1

// UnmarshalYAML reads a number or the word deny. Anything else becomes 0, which [Policy.normalize] reports with its line.
func (n *Need) UnmarshalYAML(unmarshal func(any) error) error {
	var value any
	if err := unmarshal(&value); err != nil {
		return err
	}
	*n = 0
	switch v := value.(type) {
	case string:
		if v == "deny" {
			*n = Deny
		}
	case uint64:
		*n = Need(min(v, MaxNeed+1))
	}
	return nil
}

// String is the need as the file has it.
func (n Need) String() string {
	if n == Deny {
		return "deny"
	}
	return fmt.Sprint(int(n))
}

// less tells whether n asks for less than m.
func (n Need) less(m Need) bool { return n != Deny && (m == Deny || n < m) }

// Span is a length of time.
type Span time.Duration

// UnmarshalYAML reads a time span such as 12h. Anything else becomes negative, which [Policy.normalize] reports with its line.
func (s *Span) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	if err := unmarshal(&text); err != nil {
		return err
	}
	span, err := time.ParseDuration(text)
	if err != nil {
		span = -1
	}
	*s = Span(span)
	return nil
}

// Unavailable is what to do without a risk assessment.
type Unavailable string

// The ways to go on without a risk assessment.
const (
	StepUp          Unavailable = "step_up" // as on REVIEW
	Allow           Unavailable = "allow"   // as on OK
	DenyUnavailable Unavailable = "deny"
)

// Load reads and checks a policy file; an empty path gives the built-in policy. Errors name the line.
func Load(path string) (*Policy, error) {
	if path == "" {
		return parse("built-in policy", builtIn)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return parse(path, data)
}

// Hash identifies what the policy says, by 32 hexadecimal digits of SHA-256. Files that differ only in comments or layout have the same.
func (p *Policy) Hash() string { return p.hash }

// seal computes the hash, after which nothing may change.
func (p *Policy) seal() error {
	normal, err := json.Marshal(p.Apps) // maps are sorted
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	sum := sha256.Sum256(normal)
	p.hash = hex.EncodeToString(sum[:16])
	return nil
}

// Accepts tells whether a login may start with a method.
func (a *App) Accepts(m events.Method) bool { return slices.Contains(a.Methods, m) }

// Allowed lists the factors that may be challenged after a number of factors has been verified, in order of preference.
func (a *App) Allowed(verified int) []events.Factor {
	if verified == 0 {
		return a.PasswordlessFactors
	}
	return a.Factors
}

// Counted lists what counts for the app, of what has been shown: amr values, each once, in the order in which they were shown.
func (a *App) Counted(shown []string) []string {
	var counted []string
	for _, kind := range shown {
		if !slices.Contains(counted, kind) && a.counts(kind, len(counted)) {
			counted = append(counted, kind)
		}
	}
	return counted
}

// Reach is how many kinds of proof somebody with these factors, and a password or none, can show to the app at most. It is 0 if they
// can not even begin a login, and for an app that lets nobody in.
func (a *App) Reach(password bool, factors []events.Factor) int {
	if a.OnOK == Deny || !a.Accepts(events.None) && !password {
		return 0
	}
	var kinds []string
	if password {
		kinds = append(kinds, events.Password.AMR())
	}
	for _, f := range slices.Concat(a.PasswordlessFactors, a.Factors) { // those first that may be the first proof of all
		if slices.Contains(factors, f) {
			kinds = append(kinds, f.AMR())
		}
	}
	return len(a.Counted(kinds))
}

// counts tells whether a kind of proof, an amr value, counts after a number of others.
func (a *App) counts(kind string, others int) bool {
	if kind == events.Password.AMR() {
		return a.Accepts(events.Password)
	}
	return slices.ContainsFunc(a.Allowed(others), func(f events.Factor) bool { return f.AMR() == kind })
}

// Honors tells whether a session of another app counts for this one; age is the time since its login.
func (a *App) Honors(age time.Duration) bool { return age < time.Duration(a.SessionMaxAge) }

// Need is how many factors a login with this assessment needs. A verdict that the policy does not know is denied.
func (a *App) Need(assessed *events.Assessed) Need {
	verdict := assessed.Verdict
	if assessed.Degraded {
		switch a.OnUnavailable {
		case StepUp:
			verdict = events.Review
		case Allow:
			verdict = events.OK
		default:
			return Deny
		}
	}
	switch verdict {
	case events.OK:
		return a.OnOK
	case events.Review:
		return a.OnReview
	case events.NG:
		return a.OnNG
	default:
		return Deny
	}
}
