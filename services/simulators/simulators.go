// Package simulators stands in for the outside systems: the risk provider, two text-message providers and three
// push providers, as real HTTP servers with the APIs of the vendors, and with faults that can be switched on. It
// fakes the far end of the wire, so that the adapters under test are the ones that run in the field.
//
//	/karaden/api/{tenant}/…              Karaden SMS API
//	/twilio/2010-04-01/Accounts/{sid}/…  Twilio's Messages API
//	/omotion/…                           O-MOTION; its paths are ours, since the vendor's are not public
//	/webpush/{subscription}              a push service of browsers (RFC 8030), which decrypts like a browser
//	/fcm/…                               Firebase Cloud Messaging, HTTP v1, and its token server
//	/mamoru/…                            Mamoru PUSH with its page; its paths are ours, since the vendor's are not public
//	/sim/…                               the control API: what phones received, faults, verdicts, calls
//
// Whatever is kept is bounded: the last 10,000 messages, calls and subscriptions.
package simulators

import (
	"bytes"
	"crypto/rsa"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"
)

// The providers that the control API names. Faults of VACMAN can be set; its far end is not part of this
// package.
const (
	Risk   = "risk"   // O-MOTION
	SMS    = "sms"    // Karaden
	SMS2   = "sms2"   // Twilio
	Push   = "push"   // Web Push, FCM and Mamoru PUSH
	VACMAN = "vacman" // VACMAN Controller
)

// Providers lists them all.
var Providers = []string{Risk, SMS, SMS2, Push, VACMAN}

// maxBody bounds a request to the far ends and to the control API, in bytes.
const maxBody = 64 << 10

// Config holds what the far ends demand of their callers.
type Config struct {
	KaradenTenant, KaradenToken string
	TwilioAccount, TwilioToken  string
	OMotionSignature            string
	FCMProject, FCMEmail        string         // the project, and the service account that may send for it
	FCMKey                      *rsa.PublicKey // of the service account; without one nobody may
	MamoruToken                 string
	RiskReview                  []string         // canonical names of the users who get REVIEW from the start
	Now                         func() time.Time // default time.Now
}

// Simulators is an http.Handler with all far ends and the control API. It is safe for concurrent use.
type Simulators struct {
	mux     http.ServeMux
	now     func() time.Time
	phones  *journal[Message]
	apps    *apps
	omotion *omotion
	calls   journal[Call]
	faults  faults

	closing chan struct{}
	close   func()
}

// New returns simulators without faults.
func New(cfg Config) *Simulators {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Simulators{
		now:     cfg.Now,
		phones:  &journal[Message]{},
		apps:    &apps{subscriptions: make(map[string]*subscription)},
		omotion: newOMotion(cfg),
		closing: make(chan struct{}),
	}
	s.close = sync.OnceFunc(func() { close(s.closing) })

	s.mux.Handle("/karaden/api/", s.farEnd(SMS, karadenFailure, newKaraden(cfg, s.phones).routes()))
	s.mux.Handle("/twilio/2010-04-01/", s.farEnd(SMS2, twilioFailure, newTwilio(cfg, s.phones).routes()))
	s.mux.Handle("/omotion/", s.farEnd(Risk, omotionFailure, s.omotion.routes()))
	s.mux.Handle("/webpush/", s.farEnd(Push, webPushFailure, (&webPush{apps: s.apps, now: cfg.Now}).routes()))
	s.mux.Handle("/fcm/", s.farEnd(Push, fcmFailure, newFCM(cfg, s.apps).routes()))
	s.mux.Handle("/mamoru/", s.farEnd(Push, mamoruFailure, newMamoru(cfg).routes()))
	s.mux.Handle("/sim/", s.control())
	return s
}

func (s *Simulators) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Close ends the calls that a fault keeps hanging, now and from now on. An http.Server that shuts down
// waits for its handlers, so pass Close to http.Server.RegisterOnShutdown.
func (s *Simulators) Close() { s.close() }

// SetRisk sets what the risk provider says of a user, by canonical name: OK, REVIEW or NG.
func (s *Simulators) SetRisk(user, result string) error { return s.omotion.setRisk(user, result) }

// farEnd notes each call and lets the provider's fault strike it, or hands it to the API. failure writes
// the vendor's own 500.
func (s *Simulators) farEnd(provider string, failure http.HandlerFunc, api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		call := s.calls.note(Call{Provider: provider, Method: r.Method, Path: r.URL.Path, At: s.now(), Outcome: OutcomePending})
		outcome := OutcomeBroken
		defer call(func(c *Call) { c.Outcome = outcome }) // a fault may end the handler by a panic

		// The body is read first: until then net/http does not notice that a client has gone.
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			http.Error(w, "body is unreadable or too large", http.StatusRequestEntityTooLarge)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))

		fault := s.faults.draw(provider)
		if fault.Mode != None {
			outcome = string(fault.Mode)
		}
		if fault.Late {
			api.ServeHTTP(&discarded{header: http.Header{}}, r)
		}
		switch fault.Mode {
		case Error:
			failure(w, r)
		case Garbage:
			garbage(w)
		case Reset:
			reset(w)
		case Hang:
			s.hang(r, fault.Delay)
		case Slow:
			if !s.wait(r, fault.Delay) {
				panic(http.ErrAbortHandler)
			}
			api.ServeHTTP(w, r)
		default:
			status := statusRecorder{ResponseWriter: w, status: http.StatusOK}
			api.ServeHTTP(&status, r)
			outcome = OutcomeAnswered
			if status.status >= 400 {
				outcome = OutcomeRefused
			}
		}
	})
}

// writeJSON answers as the far ends do.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // fails only where the client is gone
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// discarded is an answer that nobody will see.
type discarded struct{ header http.Header }

func (d *discarded) Header() http.Header         { return d.header }
func (d *discarded) Write(p []byte) (int, error) { return len(p), nil }
func (d *discarded) WriteHeader(int)             {}
