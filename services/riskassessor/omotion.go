package riskassessor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/sekisho/sekisho/services/internal/provider"
)

// Assessment is what a risk provider says of a login.
type Assessment struct {
	ID     string // the provider's, at most 64 characters
	Result string // OK, REVIEW or NG
	Reason string // one of the provider's own words, such as FIRST_USER_DEVICE
}

// OMotionConfig is an account at O-MOTION.
type OMotionConfig struct {
	URL       string
	Signature string // what authorizes the merchant; a secret
}

// OMotion asks O-MOTION. The fields and headers are the vendor's; the paths of its API are not public, so
// these are ours.
type OMotion struct {
	client *provider.Client
	config OMotionConfig
}

// NewOMotion returns an adapter that calls through c.
func NewOMotion(c *provider.Client, cfg OMotionConfig) *OMotion {
	return &OMotion{client: c, config: cfg}
}

// Name returns "omotion".
func (o *OMotion) Name() string { return "omotion" }

var (
	assessmentID     = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	assessmentReason = regexp.MustCompile(`^[A-Z_]{0,64}$`)
)

// Assess fetches the assessment with this id, or the user's latest where the login carries none. userHash is
// the SHA-256 of the user's name in hex. The id comes from the browser, so whatever is wrong with it
// (malformed, unknown, made for another user) is ErrRefused and never counts against O-MOTION.
func (o *OMotion) Assess(ctx context.Context, id, userHash string) (Assessment, error) {
	if id != "" && !assessmentID.MatchString(id) {
		return Assessment{}, provider.Refuse(o.Name(), "not an id of an assessment")
	}
	path := "/assessments/latest"
	if id != "" {
		path = "/assessments/" + id
	}
	var assessment Assessment
	err := o.call(ctx, http.MethodGet, path, userHash, "", func(r *provider.Response) (err error) {
		assessment, err = omotionAssessment(r, id, userHash)
		return err
	})
	return assessment, err
}

// Report tells O-MOTION whether the login that it assessed succeeded; it learns from that.
func (o *OMotion) Report(ctx context.Context, id, userHash string, success bool) error {
	if !assessmentID.MatchString(id) {
		return provider.Refuse(o.Name(), "not an id of an assessment")
	}
	body := `{"result":"FAILURE"}`
	if success {
		body = `{"result":"SUCCESS"}`
	}
	return o.call(ctx, http.MethodPost, "/assessments/"+id+"/login-result", userHash, body, func(*provider.Response) error {
		return nil // the status says it all
	})
}

func (o *OMotion) call(ctx context.Context, method, path, userHash, body string, decode func(*provider.Response) error) error {
	req, err := http.NewRequest(method, o.config.URL+path, strings.NewReader(body))
	if err != nil {
		return fmt.Errorf("omotion: %w", err)
	}
	req.Header.Set("X-Omotion-Signature", o.config.Signature)
	req.Header.Set("X-Omotion-Useridhashed", userHash)
	req.Header.Set("Accept", "application/json")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return o.client.Do(ctx, req, decode)
}

// omotionAssessment reads an assessment and checks that it is the one asked for: an id of somebody else's
// good login must not vouch for this user. An empty id takes any of the user's.
func omotionAssessment(r *provider.Response, id, userHash string) (Assessment, error) {
	if r.Class() != nil {
		return Assessment{}, nil // the status decides
	}
	var a struct {
		AuthoriID    string `json:"authori_id"`
		UserIDHashed string `json:"user_id_hashed"`
		FinalResult  string `json:"final_result"` // counts, unlike result: it has the overrides in it
		Reason       string `json:"reason"`
	}
	if err := r.JSON(&a); err != nil {
		return Assessment{}, err
	}
	switch a.FinalResult {
	case "OK", "REVIEW", "NG":
	default:
		return Assessment{}, errors.New("unknown result of an assessment")
	}
	if !assessmentID.MatchString(a.AuthoriID) || !assessmentReason.MatchString(a.Reason) {
		return Assessment{}, errors.New("answer is not an assessment")
	}
	if id != "" && a.AuthoriID != id || a.UserIDHashed != userHash {
		return Assessment{}, fmt.Errorf("assessment is of another login: %w", provider.ErrRefused)
	}
	return Assessment{ID: a.AuthoriID, Result: a.FinalResult, Reason: a.Reason}, nil
}
