package simulators

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// twilio is Twilio's Messages API. A message goes from queued to sent to delivered, one step each time it
// is read.
type twilio struct {
	account, token string
	now            func() time.Time
	phones         *journal[Message]

	mu       sync.Mutex
	messages recent[twilioMessage]
}

type twilioMessage struct {
	SID          string      `json:"sid"`
	AccountSID   string      `json:"account_sid"`
	APIVersion   string      `json:"api_version"`
	To           string      `json:"to"`
	From         string      `json:"from"`
	Body         string      `json:"body"`
	Status       string      `json:"status"`
	Direction    string      `json:"direction"`
	NumSegments  string      `json:"num_segments"`
	ErrorCode    *int        `json:"error_code"`
	ErrorMessage *string     `json:"error_message"`
	DateCreated  twilioTime  `json:"date_created"`
	DateUpdated  twilioTime  `json:"date_updated"`
	DateSent     *twilioTime `json:"date_sent"`
	URI          string      `json:"uri"`
}

// twilioTime is written as RFC 2822.
type twilioTime time.Time

func (t twilioTime) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Time(t).UTC().Format(time.RFC1123Z))
}

var twilioNumber = regexp.MustCompile(`^\+[1-9][0-9]{1,14}$`)

const (
	twilioBodyMax     = 1600  // characters
	twilioValidityMax = 14400 // seconds
)

func newTwilio(cfg Config, p *journal[Message]) *twilio {
	return &twilio{account: cfg.TwilioAccount, token: cfg.TwilioToken, now: cfg.Now, phones: p}
}

func (t *twilio) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /twilio/2010-04-01/Accounts/{account}/Messages.json", t.create)
	mux.HandleFunc("GET /twilio/2010-04-01/Accounts/{account}/Messages.json", t.list)
	mux.HandleFunc("GET /twilio/2010-04-01/Accounts/{account}/Messages/{file}", t.fetch)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		account, token, _ := r.BasicAuth()
		inPath, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/twilio/2010-04-01/Accounts/"), "/")
		switch {
		case account != t.account, subtle.ConstantTimeCompare([]byte(token), []byte(t.token)) != 1:
			twilioError(w, http.StatusUnauthorized, 20003, "Authenticate")
		case inPath != t.account:
			twilioError(w, http.StatusNotFound, 20404, "The requested resource was not found")
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

func twilioFailure(w http.ResponseWriter, _ *http.Request) {
	twilioError(w, http.StatusInternalServerError, 20500, "An internal server error has occurred")
}

func twilioError(w http.ResponseWriter, status, code int, message string) {
	writeJSON(w, status, map[string]any{
		"code": code, "message": message, "status": status,
		"more_info": fmt.Sprintf("https://www.twilio.com/docs/errors/%d", code),
	})
}

func (t *twilio) create(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		twilioError(w, http.StatusBadRequest, 20001, "Unknown parameters")
		return
	}
	to, from, body := r.PostForm.Get("To"), r.PostForm.Get("From"), r.PostForm.Get("Body")
	validity, err := strconv.Atoi(r.PostForm.Get("ValidityPeriod"))
	switch {
	case !twilioNumber.MatchString(to):
		twilioError(w, http.StatusBadRequest, 21211, "Invalid 'To' Phone Number")
		return
	case from == "":
		twilioError(w, http.StatusBadRequest, 21603, "A 'From' phone number is required.")
		return
	case body == "":
		twilioError(w, http.StatusBadRequest, 21602, "Message body is required.")
		return
	case utf8.RuneCountInString(body) > twilioBodyMax:
		twilioError(w, http.StatusBadRequest, 21617, "The concatenated message body exceeds the 1600 character limit.")
		return
	case r.PostForm.Has("ValidityPeriod") && (err != nil || validity < 1 || validity > twilioValidityMax):
		twilioError(w, http.StatusBadRequest, 20001, "Invalid ValidityPeriod")
		return
	}

	id := make([]byte, 16)
	rand.Read(id) // never fails
	now := t.now()
	m := &twilioMessage{
		SID: "SM" + hex.EncodeToString(id), AccountSID: t.account, APIVersion: "2010-04-01", To: to, From: from, Body: body,
		Status: "queued", Direction: "outbound-api", NumSegments: "1",
		DateCreated: twilioTime(now), DateUpdated: twilioTime(now),
	}
	m.URI = "/2010-04-01/Accounts/" + t.account + "/Messages/" + m.SID + ".json"
	answer := *m
	t.mu.Lock()
	t.messages.add(m)
	t.mu.Unlock()
	t.phones.note(Message{To: to, Body: body, At: now, Provider: SMS2})
	writeJSON(w, http.StatusCreated, answer)
}

// advance takes a message one step on and returns how it stands.
func (t *twilio) advance(m *twilioMessage) twilioMessage {
	now := twilioTime(t.now())
	switch m.Status {
	case "queued":
		m.Status, m.DateSent, m.DateUpdated = "sent", new(now), now
	case "sent":
		m.Status, m.DateUpdated = "delivered", now
	}
	return *m
}

func (t *twilio) list(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	pageSize, err := strconv.Atoi(query.Get("PageSize"))
	if err != nil || pageSize < 1 || pageSize > 1000 {
		pageSize = 50
	}
	for _, field := range []string{"DateSent", "DateSent>", "DateSent<"} {
		if _, err := time.Parse(time.DateOnly, query.Get(field)); query.Has(field) && err != nil {
			twilioError(w, http.StatusBadRequest, 20001, "Invalid "+field)
			return
		}
	}
	found := []twilioMessage{}
	t.mu.Lock()
	for m := range t.messages.newestFirst() {
		if len(found) == pageSize {
			break
		}
		if query.Has("To") && query.Get("To") != m.To || query.Has("From") && query.Get("From") != m.From {
			continue
		}
		read := t.advance(m)
		// Dates of one form compare as text.
		day := time.Time(*read.DateSent).UTC().Format(time.DateOnly)
		if query.Has("DateSent") && day != query.Get("DateSent") ||
			query.Has("DateSent>") && day < query.Get("DateSent>") ||
			query.Has("DateSent<") && day > query.Get("DateSent<") {
			continue
		}
		found = append(found, read)
	}
	t.mu.Unlock()
	writeJSON(w, http.StatusOK, map[string]any{
		"messages": found, "page": 0, "page_size": pageSize, "uri": r.URL.RequestURI(), "next_page_uri": nil,
	})
}

func (t *twilio) fetch(w http.ResponseWriter, r *http.Request) {
	m, ok := t.read(strings.TrimSuffix(r.PathValue("file"), ".json"))
	if !ok {
		twilioError(w, http.StatusNotFound, 20404, "The requested resource was not found")
		return
	}
	writeJSON(w, http.StatusOK, m)
}

func (t *twilio) read(sid string) (twilioMessage, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for m := range t.messages.newestFirst() {
		if m.SID == sid {
			return t.advance(m), true
		}
	}
	return twilioMessage{}, false
}
