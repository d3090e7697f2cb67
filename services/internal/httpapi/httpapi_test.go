package httpapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

type body struct {
	User  string   `json:"user"`
	Count int      `json:"count"`
	Codes []string `json:"codes"`
}

func TestDecode(t *testing.T) {
	for name, tt := range map[string]struct {
		contentType, body string
		status            int // 0: accepted
		field             string
	}{
		"good":              {"application/json; charset=UTF-8", `{"user":"alice","count":2,"codes":["1"]} `, 0, ""},
		"no type":           {"", `{}`, 415, ""},
		"form":              {"application/x-www-form-urlencoded", `user=alice`, 415, ""},
		"charset":           {"application/json; charset=shift_jis", `{}`, 415, ""},
		"too large":         {"application/json", `{"user":"` + strings.Repeat("a", 100) + `"}`, 413, ""},
		"empty":             {"application/json", ``, 400, ""},
		"not JSON":          {"application/json", `{"user":`, 400, ""},
		"ends early":        {"application/json", `{"users":"a"`, 400, ""},
		"wrong, then twice": {"application/json", `{"user":7,"count":1,"count":2}`, 400, "count"},
		"after the object":  {"application/json", `{} {}`, 400, ""},
		"duplicate key":     {"application/json", `{"user":"a","user":"b"}`, 400, "user"},
		"invalid UTF-8":     {"application/json", "{\"user\":\"\xff\"}", 400, ""},
		"lone surrogate":    {"application/json", `{"user":"\ud800"}`, 400, ""},
		"unknown field":     {"application/json", `{"users":"a"}`, 422, "users"},
		"another case":      {"application/json", `{"User":"a"}`, 422, "User"},
		"wrong type":        {"application/json", `{"user":7}`, 422, "user"},
		"wrong type inside": {"application/json", `{"codes":["1",2]}`, 422, "codes/1"},
		"fraction":          {"application/json", `{"count":1.5}`, 422, "count"},
		"array":             {"application/json", `[]`, 422, ""},
		"null":              {"application/json", `null`, 422, ""},
		"long name":         {"application/json", `{"` + strings.Repeat("x", 80) + `":1}`, 422, strings.Repeat("x", 64)},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("POST", "/", strings.NewReader(tt.body))
			r.Header.Set("Content-Type", tt.contentType)
			var got body
			err := Decode(httptest.NewRecorder(), r, 96, &got)
			if tt.status == 0 {
				if err != nil || got.User != "alice" || got.Count != 2 || len(got.Codes) != 1 {
					t.Fatalf("Decode = %v, %+v", err, got)
				}
				return
			}
			p, ok := errors.AsType[*Problem](err)
			if !ok || p.Status != tt.status || p.Field != tt.field {
				t.Fatalf("Decode = %+v, want status %d, field %q", err, tt.status, tt.field)
			}
		})
	}
}

func TestProblem(t *testing.T) {
	w := httptest.NewRecorder()
	p := &Problem{Status: 429, Field: "user", Detail: "secret", RetryAfter: 1200 * time.Millisecond}
	if strings.Contains(p.Error(), "secret") {
		t.Errorf("Error() = %q repeats the detail", p)
	}
	p.Write(w)
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if w.Code != 429 || w.Header().Get("Content-Type") != "application/problem+json" || w.Header().Get("Retry-After") != "2" ||
		got["title"] != "Too Many Requests" || got["status"] != 429.0 || got["field"] != "user" {
		t.Errorf("answer = %d %v %v", w.Code, w.Header(), got)
	}
}

// People read answers with curl.
func TestAnswersAreLegible(t *testing.T) {
	w := httptest.NewRecorder()
	Write(w, 200, map[string]string{"error": "<Secret> & <Counter>"})
	if got := w.Body.String(); got != `{"error":"<Secret> & <Counter>"}`+"\n" {
		t.Errorf("answer %s", got)
	}
	w = httptest.NewRecorder()
	Write(w, 200, func() {})
	if got := w.Body.String(); w.Code != 500 || got != `{"title":"Internal Server Error","status":500}`+"\n" {
		t.Errorf("what can not be JSON is answered %d %s", w.Code, got)
	}
}

func TestRoutes(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/users/{user}", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.PathValue("user")) })
	for name, tt := range map[string]struct {
		method, path string
		status       int
		allow, body  string
	}{
		"found":        {"GET", "/v1/users/alice", 200, "", "alice"},
		"unknown":      {"GET", "/v2", 404, "", `"status":404`},
		"leads out":    {"GET", "/v1/../v2", 404, "", `"status":404`},
		"wrong method": {"POST", "/v1/users/alice", 405, "GET, HEAD", `"status":405`},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			Routes(mux).ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, nil))
			if w.Code != tt.status || w.Header().Get("Location") != "" || w.Header().Get("Allow") != tt.allow || !strings.Contains(w.Body.String(), tt.body) {
				t.Fatalf("answer = %d, Allow %q, %s", w.Code, w.Header().Get("Allow"), w.Body)
			}
			if tt.status != 200 && w.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("Content-Type = %q", w.Header().Get("Content-Type"))
			}
		})
	}
}
