package simulators

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// omotion gives a verdict for every assessment id and user hash, since there is no collector that would
// have made assessments: the user's verdict, or NG where the id starts with "bot". What is reported back
// is checked and forgotten.
type omotion struct {
	signature string
	now       func() time.Time

	mu      sync.Mutex
	results map[string]string // by SHA-256 of the user's name, in hex; OK where absent
}

type omotionAssessment struct {
	AuthoriID       string `json:"authori_id"`
	EventID         string `json:"event_id"`
	EventName       string `json:"event_name"`
	UserIDHashed    string `json:"user_id_hashed"`
	FinalResult     string `json:"final_result"`
	Result          string `json:"result"`
	Reason          string `json:"reason"`
	Feedback        string `json:"feedback"`
	FeedbackComment string `json:"feedback_comment"`
}

var omotionReasons = map[string]string{"OK": "USER_DEVICE", "REVIEW": "FIRST_USER_DEVICE", "NG": "NG_DEVICE"}

const omotionIDMax = 64

func newOMotion(cfg Config) *omotion {
	o := &omotion{signature: cfg.OMotionSignature, now: cfg.Now, results: make(map[string]string)}
	for _, user := range cfg.RiskReview {
		o.results[hashed(user)] = "REVIEW"
	}
	return o
}

func hashed(user string) string {
	sum := sha256.Sum256([]byte(user))
	return hex.EncodeToString(sum[:])
}

func (o *omotion) setRisk(user, result string) error {
	if _, ok := omotionReasons[result]; !ok {
		return fmt.Errorf("result must be OK, REVIEW or NG")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.results[hashed(user)] = result
	return nil
}

func (o *omotion) result(userHash string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if result, ok := o.results[userHash]; ok {
		return result
	}
	return "OK"
}

func (o *omotion) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /omotion/assessments/{id}", o.assess)
	mux.HandleFunc("POST /omotion/assessments/{id}/login-result", o.loginResult)
	mux.HandleFunc("POST /omotion/assessments/{id}/feedback", o.feedback)
	mux.HandleFunc("GET /omotion/devices", o.devices)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		signature, user := r.Header.Get("X-Omotion-Signature"), r.Header.Get("X-Omotion-Useridhashed")
		switch {
		case subtle.ConstantTimeCompare([]byte(signature), []byte(o.signature)) != 1:
			omotionError(w, http.StatusUnauthorized, "signature")
		case len(user) != hex.EncodedLen(sha256.Size):
			omotionError(w, http.StatusBadRequest, "user_id_hashed")
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

func omotionFailure(w http.ResponseWriter, _ *http.Request) {
	omotionError(w, http.StatusInternalServerError, "internal")
}

func omotionError(w http.ResponseWriter, status int, code string) {
	writeJSON(w, status, map[string]string{"error": code})
}

func (o *omotion) assess(w http.ResponseWriter, r *http.Request) {
	user := r.Header.Get("X-Omotion-Useridhashed")
	a := omotionAssessment{
		AuthoriID: r.PathValue("id"), EventID: "login", EventName: "login page", UserIDHashed: user, Feedback: "NONE",
	}
	if len(a.AuthoriID) > omotionIDMax {
		omotionError(w, http.StatusNotFound, "authori_id")
		return
	}
	if a.AuthoriID == "latest" {
		a.AuthoriID = "latest-" + user[:16]
	}
	a.Result = o.result(user)
	a.Reason = omotionReasons[a.Result]
	if strings.HasPrefix(a.AuthoriID, "bot") {
		a.Result, a.Reason = "NG", "BOT"
	}
	a.FinalResult = a.Result
	writeJSON(w, http.StatusOK, a)
}

func (o *omotion) loginResult(w http.ResponseWriter, r *http.Request) {
	o.take(w, r, "SUCCESS", "FAILURE")
}

func (o *omotion) feedback(w http.ResponseWriter, r *http.Request) { o.take(w, r, "OK", "NG") }

func (o *omotion) take(w http.ResponseWriter, r *http.Request, allowed ...string) {
	var report struct {
		Result  string `json:"result"`
		Comment string `json:"comment"`
	}
	if json.NewDecoder(r.Body).Decode(&report) != nil || !slices.Contains(allowed, report.Result) {
		omotionError(w, http.StatusUnprocessableEntity, "result")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (o *omotion) devices(w http.ResponseWriter, r *http.Request) {
	user := r.Header.Get("X-Omotion-Useridhashed")
	writeJSON(w, http.StatusOK, []map[string]string{{
		"user_id_hashed": user, "user_device_id": o.now().UTC().Format("200601021504") + "_" + user[:6] + "_MacOSX_Chrome",
		"status": "VALID", "device_category_name": "PC", "os_name": "Mac OS X", "browser_name": "Chrome",
	}})
}
