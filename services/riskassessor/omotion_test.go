package riskassessor

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/services/internal/provider"
	"github.com/sekisho/sekisho/services/internal/testenv"
	"github.com/sekisho/sekisho/services/simulators"
)

func omotionAt(t *testing.T, url string, timeout time.Duration) *OMotion {
	client := provider.New(provider.Settings{Name: "omotion", Timeout: timeout, Failures: 100}, prometheus.NewRegistry(), zerolog.Nop())
	t.Cleanup(client.CloseIdle)
	return NewOMotion(client, OMotionConfig{URL: url + "/omotion", Signature: "signature"})
}

func simulatedOMotion(t *testing.T) (*simulators.Simulators, string) {
	sim := simulators.New(simulators.Config{OMotionSignature: "signature", RiskReview: []string{"alice"}})
	server := httptest.NewServer(sim)
	t.Cleanup(func() {
		sim.Close()
		server.Close()
	})
	return sim, server.URL
}

func hash(user string) string {
	sum := sha256.Sum256([]byte(user))
	return hex.EncodeToString(sum[:])
}

func TestAssess(t *testing.T) {
	sim, url := simulatedOMotion(t)
	if err := sim.SetRisk("mallory", "NG"); err != nil {
		t.Fatal(err)
	}
	o := omotionAt(t, url, time.Minute)
	for _, tc := range []struct{ id, user, result, reason string }{
		{"a-1", "alice", "REVIEW", "FIRST_USER_DEVICE"},
		{"a-1", "bob", "OK", "USER_DEVICE"},
		{"a-1", "mallory", "NG", "NG_DEVICE"},
		{"bot-7", "bob", "NG", "BOT"},
		{"", "alice", "REVIEW", "FIRST_USER_DEVICE"},
	} {
		got, err := o.Assess(t.Context(), tc.id, hash(tc.user))
		if err != nil {
			t.Fatal(err)
		}
		if got.Result != tc.result || got.Reason != tc.reason || tc.id != "" && got.ID != tc.id || got.ID == "" {
			t.Errorf("assessment %q of %s is %+v", tc.id, tc.user, got)
		}
		for _, success := range []bool{true, false} {
			if err := o.Report(t.Context(), got.ID, hash(tc.user), success); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestAssessRefusesOddIDs(t *testing.T) {
	sim, url := simulatedOMotion(t)
	o := omotionAt(t, url, time.Minute)
	for _, id := range []string{"..", "a/b", "a?b", "a b", "a\n", "審査", strings.Repeat("x", 65)} {
		if _, err := o.Assess(t.Context(), id, hash("bob")); !errors.Is(err, provider.ErrRefused) || !provider.Unsent(err) {
			t.Errorf("Assess %q: %v", id, err)
		}
		if err := o.Report(t.Context(), id, hash("bob"), true); !errors.Is(err, provider.ErrRefused) || !provider.Unsent(err) {
			t.Errorf("Report %q: %v", id, err)
		}
	}
	if calls := sim.Calls(""); len(calls) != 0 {
		t.Fatalf("calls went out: %v", calls)
	}
	// The path of the latest assessment is no way to an assessment of that name.
	if _, err := o.Assess(t.Context(), "latest", hash("bob")); !errors.Is(err, provider.ErrRefused) {
		t.Errorf("Assess latest: %v", err)
	}
}

func TestOMotionFaults(t *testing.T) {
	sim, url := simulatedOMotion(t)
	testenv.EachFault(t, func(t *testing.T, fault simulators.Fault, timeout time.Duration, want error) {
		if err := sim.SetFault(simulators.Risk, fault); err != nil {
			t.Fatal(err)
		}
		got, err := omotionAt(t, url, timeout).Assess(t.Context(), "a-1", hash("bob"))
		if !errors.Is(err, want) || (err == nil) != (got.Result == "OK") {
			t.Fatalf("%+v, %v; want %v", got, err, want)
		}
		if fault.Mode == simulators.Garbage {
			return // a report's status says it all
		}
		if err := omotionAt(t, url, timeout).Report(t.Context(), "a-1", hash("bob"), true); !errors.Is(err, want) {
			t.Fatalf("Report: %v, want %v", err, want)
		}
	})
}

func TestWrongSignatureIsOurFault(t *testing.T) {
	_, url := simulatedOMotion(t)
	o := omotionAt(t, url, time.Minute)
	o.config.Signature = "wrong"
	if _, err := o.Assess(t.Context(), "a-1", hash("bob")); !errors.Is(err, provider.ErrUnavailable) {
		t.Fatal(err)
	}
}

func TestAssessmentIsReadStrictly(t *testing.T) {
	for body, want := range map[string]error{
		`{"authori_id":"a","user_id_hashed":"h","final_result":"OK","result":"NG","reason":"USER_DEVICE"}`: nil, // the final result counts
		`{"authori_id":"a","user_id_hashed":"h","final_result":"REVIEW"}`:                                  nil,
		`{"authori_id":"a","user_id_hashed":"other","final_result":"OK"}`:                                  provider.ErrRefused,
		`{"authori_id":"b","user_id_hashed":"h","final_result":"OK"}`:                                      provider.ErrRefused,
		`{"authori_id":"a","user_id_hashed":"h","final_result":"ok"}`:                                      provider.ErrUnavailable,
		`{"authori_id":"a","user_id_hashed":"h","result":"OK"}`:                                            provider.ErrUnavailable,
		`{"authori_id":"a","user_id_hashed":"h","final_result":"OK","reason":"because of 192.0.2.1"}`:      provider.ErrUnavailable,
		`{"user_id_hashed":"h","final_result":"OK"}`:                                                       provider.ErrUnavailable,
		`[]`: provider.ErrUnavailable,
		``:   provider.ErrUnavailable,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(body)) }))
		o := omotionAt(t, server.URL, time.Minute)
		if _, err := o.Assess(t.Context(), "a", "h"); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", body, err, want)
		}
		o.client.CloseIdle()
		server.Close()
	}
}

func TestUnknownAssessmentIsRefused(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	o := omotionAt(t, server.URL, time.Minute)
	defer o.client.CloseIdle()
	if _, err := o.Assess(t.Context(), "a", "h"); !errors.Is(err, provider.ErrRefused) || provider.Unsent(err) {
		t.Fatal(err)
	}
}

func FuzzOMotionAnswer(f *testing.F) {
	f.Add(200, []byte(`{"authori_id":"a","user_id_hashed":"h","final_result":"OK","result":"OK","reason":"USER_DEVICE"}`))
	f.Add(200, []byte(`{"authori_id":"a","user_id_hashed":"other","final_result":"NG"}`))
	f.Add(500, []byte(`{"error":"internal"}`))
	f.Add(200, []byte(`null`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		r := &provider.Response{Status: status, Body: body}
		for _, id := range []string{"a", ""} {
			got, err := omotionAssessment(r, id, "h")
			if err != nil || r.Class() != nil {
				if got != (Assessment{}) {
					t.Fatalf("%+v with status %d, %v", got, status, err)
				}
				continue
			}
			if !slices.Contains([]string{"OK", "REVIEW", "NG"}, got.Result) || !assessmentID.MatchString(got.ID) || id != "" && got.ID != id {
				t.Fatalf("not an assessment: %+v", got)
			}
		}
	})
}
