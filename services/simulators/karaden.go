package simulators

import (
	"crypto/subtle"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// karaden is the Karaden SMS API in the shape of the vendor's OpenAPI files. A message goes from waiting
// to done to received, one step each time it is read, so that all three can be seen without waiting.
type karaden struct {
	tenant, token string
	now           func() time.Time
	phones        *journal[Message]

	mu       sync.Mutex
	messages recent[karadenMessage]
}

type karadenMessage struct {
	ID           string       `json:"id"`
	Object       string       `json:"object"`
	ServiceID    int          `json:"service_id"`
	BillingID    int          `json:"billing_address_id"`
	To           string       `json:"to"`
	Body         string       `json:"body"`
	Tags         []string     `json:"tags"`
	IsShorten    bool         `json:"is_shorten"`
	ShortenClick bool         `json:"is_shorten_clicked"`
	Result       string       `json:"result"`
	Status       string       `json:"status"`
	SentResult   string       `json:"sent_result"`
	Carrier      string       `json:"carrier"`
	ChargedCount int          `json:"charged_count_per_sent"`
	Error        any          `json:"error"`
	ScheduledAt  *karadenTime `json:"scheduled_at"`
	LimitedAt    *karadenTime `json:"limited_at"`
	SentAt       *karadenTime `json:"sent_at"`
	ReceivedAt   *karadenTime `json:"received_at"`
	ChargedAt    *karadenTime `json:"charged_at"`
	CreatedAt    karadenTime  `json:"created_at"`
	UpdatedAt    karadenTime  `json:"updated_at"`

	pending bool // still to be handed to its phone, so it has a scheduled_at
	late    bool // its limited_at passed first
}

// karadenTime is written with seconds and the offset of Japan.
type karadenTime time.Time

const karadenLayout = "2006-01-02T15:04:05-07:00"

var japan = time.FixedZone("JST", 9*60*60)

func (t karadenTime) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Time(t).In(japan).Format(karadenLayout))
}

var (
	karadenVersions = []string{"2023-01-01", "2023-12-01", "2024-03-01"}
	karadenNumber   = regexp.MustCompile(`^[0-9]{11}$`)
	karadenTag      = regexp.MustCompile(`^tags\[[0-9]*\]$`) // clients write tags[]= or tags[0]=
)

const (
	karadenBodyMax     = 660 // characters
	karadenScheduleMax = 30 * 24 * time.Hour
	karadenCancelUntil = 5 * time.Minute // before scheduled_at
)

func newKaraden(cfg Config, p *journal[Message]) *karaden {
	return &karaden{tenant: cfg.KaradenTenant, token: cfg.KaradenToken, now: cfg.Now, phones: p}
}

func (k *karaden) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /karaden/api/{tenant}/messages", k.create)
	mux.HandleFunc("GET /karaden/api/{tenant}/messages", k.list)
	mux.HandleFunc("GET /karaden/api/{tenant}/messages/{id}", k.detail)
	mux.HandleFunc("POST /karaden/api/{tenant}/messages/{id}/cancel", k.cancel)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		tenant, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/karaden/api/"), "/")
		switch {
		case !bearer || subtle.ConstantTimeCompare([]byte(token), []byte(k.token)) != 1:
			karadenError(w, http.StatusUnauthorized, "unauthentication", nil)
		case !slices.Contains(karadenVersions, r.Header.Get("Karaden-Version")):
			karadenError(w, http.StatusBadRequest, "invalid_version", nil)
		case tenant != k.tenant:
			karadenError(w, http.StatusBadRequest, "invalid_tenant", nil)
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

func karadenFailure(w http.ResponseWriter, _ *http.Request) {
	karadenError(w, http.StatusInternalServerError, "unknown", nil)
}

func karadenError(w http.ResponseWriter, status int, code string, fields map[string][]string) {
	writeJSON(w, status, map[string]any{"object": "error", "code": code, "message": "The request failed: " + code, "errors": fields})
}

func (k *karaden) create(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		karadenError(w, http.StatusBadRequest, "unknown", nil)
		return
	}
	m, wrong := k.parse(r.PostForm)
	if len(wrong) > 0 {
		karadenError(w, http.StatusUnprocessableEntity, "validation_error", wrong)
		return
	}
	k.mu.Lock()
	k.messages.add(m)
	k.deliver(m)
	answer := *m
	k.mu.Unlock()
	writeJSON(w, http.StatusOK, answer)
}

func (k *karaden) parse(form url.Values) (*karadenMessage, map[string][]string) {
	now := k.now()
	m := &karadenMessage{
		ID: uuid.NewString(), Object: "message", BillingID: 1, To: form.Get("to"), Body: form.Get("body"), Tags: []string{},
		Result: "processing", Status: "waiting", SentResult: "none", Carrier: "checking",
		CreatedAt: karadenTime(now), UpdatedAt: karadenTime(now), pending: true,
	}
	wrong := map[string][]string{}
	refuse := func(field string) { wrong[field] = append(wrong[field], "The "+field+" is invalid.") }

	m.ServiceID, _ = strconv.Atoi(form.Get("service_id"))
	if m.ServiceID <= 0 {
		refuse("service_id")
	}
	if !karadenNumber.MatchString(m.To) {
		refuse("to")
	}
	if n := utf8.RuneCountInString(m.Body); n == 0 || n > karadenBodyMax || !utf8.ValidString(m.Body) {
		refuse("body")
	}
	switch form.Get("is_shorten") {
	case "true":
		m.IsShorten = true
	case "", "false":
	default:
		refuse("is_shorten")
	}
	for _, field := range slices.Sorted(maps.Keys(form)) {
		if karadenTag.MatchString(field) {
			m.Tags = append(m.Tags, form[field]...)
		}
	}
	date := func(field string) *karadenTime {
		if !form.Has(field) {
			return nil
		}
		t, err := time.Parse(time.RFC3339, form.Get(field))
		if err != nil {
			refuse(field)
		}
		return new(karadenTime(t))
	}
	m.LimitedAt = date("limited_at")
	if m.ScheduledAt = date("scheduled_at"); m.ScheduledAt != nil && time.Time(*m.ScheduledAt).After(now.Add(karadenScheduleMax)) {
		refuse("scheduled_at")
	}
	return m, wrong
}

// deliver hands a pending message to its phone once it is due, or gives it up once it is too late. A
// scheduled message therefore arrives when it is first read after its time.
func (k *karaden) deliver(m *karadenMessage) {
	now := k.now()
	switch {
	case !m.pending, m.ScheduledAt != nil && now.Before(time.Time(*m.ScheduledAt)):
	case m.LimitedAt != nil && now.After(time.Time(*m.LimitedAt)):
		m.pending, m.late = false, true
	default:
		m.pending = false
		k.phones.note(Message{To: e164(m.To), Body: m.Body, At: now, Provider: SMS})
	}
}

// advance takes a message one step on and returns how it stands.
func (k *karaden) advance(m *karadenMessage) karadenMessage {
	k.deliver(m)
	now := karadenTime(k.now())
	switch {
	case m.pending, m.Result == "done":
		return *m
	case m.late:
		m.Result, m.Status = "done", "error"
	case m.Status == "waiting":
		m.Status, m.Carrier, m.SentAt = "done", "docomo", new(now)
	default:
		m.Result, m.SentResult, m.ReceivedAt = "done", "received", new(now)
		m.ChargedCount, m.ChargedAt = 1, new(now)
	}
	m.UpdatedAt = now
	return *m
}

func (k *karaden) list(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	number := func(field string, otherwise, most int) int {
		n, err := strconv.Atoi(query.Get(field))
		if err != nil || n < 1 || n > most {
			return otherwise
		}
		return n
	}
	perPage, page := number("per_page", 20, 100), number("page", 1, kept)
	matches := func(field, value string) bool { return !query.Has(field) || query.Get(field) == value }

	found, skip, hasMore := []karadenMessage{}, (page-1)*perPage, false
	k.mu.Lock()
	for m := range k.messages.newestFirst() {
		if !matches("to", m.To) || !matches("service_id", strconv.Itoa(m.ServiceID)) ||
			!matches("status", m.Status) || !matches("result", m.Result) || !matches("sent_result", m.SentResult) ||
			query.Has("tag") && !slices.Contains(m.Tags, query.Get("tag")) {
			continue
		}
		if skip > 0 {
			skip--
			continue
		}
		if len(found) == perPage {
			hasMore = true
			break
		}
		found = append(found, k.advance(m))
	}
	k.mu.Unlock()
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "has_more": hasMore, "data": found})
}

func (k *karaden) detail(w http.ResponseWriter, r *http.Request) {
	m, ok := k.read(r.PathValue("id"))
	if !ok {
		karadenError(w, http.StatusNotFound, "model_not_found", nil)
		return
	}
	writeJSON(w, http.StatusOK, m)
}

func (k *karaden) read(id string) (karadenMessage, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for m := range k.messages.newestFirst() {
		if m.ID == id {
			return k.advance(m), true
		}
	}
	return karadenMessage{}, false
}

func (k *karaden) cancel(w http.ResponseWriter, r *http.Request) {
	m, status, code := k.withdraw(r.PathValue("id"))
	if code != "" {
		karadenError(w, status, code, nil)
		return
	}
	writeJSON(w, status, m)
}

func (k *karaden) withdraw(id string) (m karadenMessage, status int, code string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for m := range k.messages.newestFirst() {
		if m.ID != id {
			continue
		}
		now := k.now()
		if !m.pending || now.Add(karadenCancelUntil).After(time.Time(*m.ScheduledAt)) {
			return *m, http.StatusBadRequest, "can_not_cancel_message"
		}
		m.pending, m.Status, m.Result, m.UpdatedAt = false, "canceled", "done", karadenTime(now)
		return *m, http.StatusOK, ""
	}
	return karadenMessage{}, http.StatusNotFound, "model_not_found"
}
