package pushnotifier

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// A site is what a notifier runs on: a broker, a database with users, push services, a gateway, credentials, and a clock.
type site struct {
	broker   *testenv.Broker
	viewer   *bus.Bus
	gateway  *events.Client
	assessor *bus.Bus
	hints    chan string // devices of which the gateway heard that there is something to fetch
	admin    *pgxpool.Pool
	env      *runtime.Env
	sealer   *events.Sealer
	far      vendorsFar
	log      *record

	mu  sync.Mutex
	now time.Time
}

// A record is a log that can be read while it is written.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(b)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// newSite makes a site with the users alice and bob, all push services, and nothing that runs. adjust may change the settings.
func newSite(t testing.TB, adjust ...func(*config.Config)) *site {
	t.Helper()
	s := &site{broker: testenv.NATS(t), far: startVendors(t, nil), hints: make(chan string, 1000), log: &record{}, now: time.Now()}
	s.viewer, s.assessor = s.broker.Bus(t, bus.UserViewer), s.broker.Bus(t, "riskassessor")
	db := testenv.Migrated(t)
	s.admin = db.Pool(t, "")
	for _, user := range []string{"alice", "bob"} {
		s.sql(t, `INSERT INTO directory.users (id, name, locale, primary_method, enabled, locked, created_at, changed_at)
			VALUES ($1, $1 || '.canary', 'ja', 'password', true, false, now(), now())`, user)
	}
	folder := credentials.Open(t.TempDir())
	check(t, folder.Ensure(credentials.Contents{Signing: []string{"vapid"}}))
	check(t, folder.RotateSealing(testenv.Recipients, time.Now(), time.Hour))
	keys, err := folder.PublicKeys()
	check(t, err)
	s.sealer, err = events.NewSealer(keys...)
	check(t, err)
	check(t, bus.PublishKeys(t.Context(), s.broker.Dial(t, bus.UserSetup), keys))
	s.gateway, err = events.NewClient(t.Context(), s.broker.Dial(t, "web"), events.Options{
		Gateway: "web", Patience: 20 * time.Second, Prompted: func(device string) { s.hints <- device },
	})
	check(t, err)
	t.Cleanup(s.gateway.Close)

	secret := func(name string, data []byte) string {
		path := filepath.Join(t.TempDir(), name)
		check(t, os.WriteFile(path, data, 0o600))
		return path
	}
	cfg := config.Default()
	cfg.Push.Timeout = time.Minute // no test waits for it
	cfg.Push.WebPush.Subject, cfg.Push.WebPushHosts = "mailto:ops@example.com", []string{s.far.host()}
	cfg.Push.FCM = config.FCM{URL: s.far.url + "/fcm", Project: farProject, KeyFile: secret("fcm.json", serviceAccountFile(t, s.far.url+"/fcm/token"))}
	cfg.Push.Mamoru = config.Mamoru{URL: s.far.url + "/mamoru", TokenFile: secret("mamoru-token", []byte(farToken+"\n"))}
	for _, f := range adjust {
		f(cfg)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.log)
		}
	})
	log := zerolog.New(s.log).With().Str("worker", Name).Logger()
	s.env = &runtime.Env{
		Name: Name, Config: cfg, Log: log, Credentials: folder, Now: s.clock, DB: db.Pool(t, Name),
		Bus: s.broker.Bus(t, Name, func(c *bus.Config) { c.Log, c.Now = log, s.clock }),
	}
	return s
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func expect(t testing.TB, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %+v, want %+v", what, got, want)
	}
}

var eventually = testenv.Eventually

func (s *site) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *site) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

func (s *site) sql(t testing.TB, statement string, args ...any) {
	t.Helper()
	_, err := s.admin.Exec(t.Context(), statement, args...)
	check(t, err)
}

func (s *site) count(t testing.TB, query string, args ...any) (n int) {
	t.Helper()
	check(t, s.admin.QueryRow(t.Context(), query, args...).Scan(&n))
	return n
}

// start makes a notifier, as another process would be. Nothing of it runs.
func (s *site) start(t testing.TB) *notifier {
	t.Helper()
	env := *s.env
	env.Metrics = prometheus.NewRegistry()
	n, err := newNotifier(&env)
	check(t, err)
	t.Cleanup(n.close)
	return n
}

// serve answers the requests of devices, and announces what they change, until the test ends. No events are handled.
func (s *site) serve(t testing.TB) *notifier {
	t.Helper()
	n := s.start(t)
	s.loop(t, n.serve)
	s.loop(t, n.relay)
	eventually(t, "requests are served", func() bool {
		_, err := s.gateway.Device(t.Context(), events.DeviceRequest{Method: "GET", Path: "/"})
		return err == nil
	})
	return n
}

func (s *site) loop(t testing.TB, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// run runs the whole worker until the test ends.
func (s *site) run(t testing.TB) {
	t.Helper()
	env := *s.env
	env.Metrics = prometheus.NewRegistry()
	worker, err := Build(t.Context(), &env)
	check(t, err)
	t.Cleanup(worker.Close)
	for _, run := range worker.Run {
		s.loop(t, run)
	}
	testenv.Start(t, s.env.Bus, worker.Handlers...)
	eventually(t, "requests are served", func() bool {
		_, err := s.gateway.Device(t.Context(), events.DeviceRequest{Method: "GET", Path: "/"})
		return err == nil
	})
}

// A login is one login, up to its first wanted.
type login struct {
	*site
	events.Login
	user   string
	prompt *events.Prompt
	decoy  bool
	tap    bool
	done   []string
	source string
	unseen bool // from an environment that the user has not used before
}

const number = "482913"

func (s *site) login(t testing.TB, user string, adjust ...func(*login)) *login {
	t.Helper()
	id, err := events.NewLogin("web")
	check(t, err)
	l := &login{site: s, Login: id, user: user, prompt: &events.Prompt{Number: number, Place: "place.canary", Browser: "browser.canary"}}
	for _, f := range adjust {
		f(l)
	}
	requested := &events.Requested{App: "demo", Method: events.None, Deadline: time.Now().Add(5 * time.Minute), SourceTag: l.source}
	requested.Identity, err = s.sealer.Seal("identityverifier", l.Subject(events.StepRequested, 0), "identity", events.Identity{User: user})
	check(t, err)
	if l.prompt != nil {
		requested.Prompt, err = s.sealer.Seal(Name, l.Subject(events.StepRequested, 0), "prompt", l.prompt)
		check(t, err)
	}
	l.say(t, "gateway/web", 0, requested)
	l.say(t, "identityverifier", 0, &events.Identified{App: "demo", User: user, Primary: events.None, Decoy: l.decoy,
		Factors: []events.Factor{events.Push}, Deadline: time.Now().Add(5 * time.Minute)})
	if l.unseen {
		check(t, s.assessor.AlertOf(t.Context(), l.Login, "unknown-environment", user, map[string]string{"login": l.String(), "app": "demo"}))
	}
	l.say(t, "riskassessor", 0, &events.Assessed{Verdict: events.OK, Unknown: l.unseen})
	return l
}

// say stores an event of the login, and returns it as the stream has it.
func (l *login) say(t testing.TB, by string, n int, data events.Data) *events.Event {
	t.Helper()
	e := events.New(l.Login, n, data)
	e.By, e.Time, e.Nonce = by, time.Now(), "0123456789abcdef"
	e.Expires = time.Now().Add(5 * time.Minute)
	l.broker.Publish(t, e)
	return l.event(t, e.Step, n)
}

func (l *login) event(t testing.TB, step events.Step, n int) *events.Event {
	t.Helper()
	return l.broker.Await(t, l.Login, step, n)
}

// has tells whether an event is in the stream.
func (l *login) has(t testing.TB, step events.Step, n int) bool {
	t.Helper()
	_, err := l.viewer.Event(t.Context(), l.Login, step, n)
	return err == nil
}

// wanted asks for a push in a round.
func (l *login) wanted(t testing.TB, round int) *events.Event {
	t.Helper()
	return l.say(t, "sessionissuer", round, &events.Wanted{
		Factor: events.Push, Left: []events.Factor{events.SMS}, App: "demo", User: l.user, Decoy: l.decoy, Tap: l.tap, Done: l.done,
		SourceTag: l.source, Deadline: time.Now().Add(5 * time.Minute).UTC().Truncate(time.Microsecond),
		Decision: events.Decision{Policy: "p", Facts: events.Facts{Now: time.Now(), Enabled: true}, After: l.EventID(events.StepAssessed, 0)},
	})
}

// challenged has a notifier challenge a round, as a delivery of wanted does.
func (l *login) challenged(t testing.TB, n *notifier, round int) *events.Challenged {
	t.Helper()
	e := l.wanted(t, round)
	out, err := n.dispatch(t.Context(), e, e.Data.(*events.Wanted))
	check(t, err)
	if len(out) > 0 {
		t.Fatalf("%+v", out[0].Data)
	}
	return l.event(t, events.StepChallenged, round).Data.(*events.Challenged)
}

// verdict is what became of an attempt, in short.
func (l *login) verdict(t testing.TB, attempt int) string {
	t.Helper()
	rejected := l.event(t, events.StepRejected, attempt).Data.(*events.Rejected)
	return fmt.Sprintf("%s %d", rejected.Reason, rejected.AttemptsLeft)
}

// A phone is a device with its key.
type phone struct {
	*site
	key    *ecdsa.PrivateKey
	id     string
	at     time.Duration  // what its clock is ahead
	header map[string]any // overrides of what its tokens say
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	return key
}

func point(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	b, err := key.PublicKey.Bytes()
	check(t, err)
	return b
}

// prompted is a site where the phone of alice is asked in the first round of her login.
func prompted(t testing.TB) (s *site, n *notifier, p *phone, l *login) {
	t.Helper()
	s = newSite(t)
	n, p, l = s.serve(t), s.phone(t, "alice"), s.login(t, "alice")
	l.challenged(t, n, 1)
	return s, n, p, l
}

// phone gives a user a device without enrolling it.
func (s *site) phone(t testing.TB, user string) *phone {
	t.Helper()
	p := &phone{site: s, key: newKey(t), id: rand.Text()}
	s.sql(t, `INSERT INTO directory.devices (id, user_id, kind, name, public_key, account, gateway, transport, enrolled_at, last_seen)
		VALUES ($1, $2, 'sekisho', 'phone.canary', $3, '', 'web', '', now(), now())`, p.id, user, point(t, p.key))
	return p
}

// sign makes a token as a phone does.
func (p *phone) sign(t testing.TB, typ string, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["typ"], token.Header["kid"] = typ, p.id
	for name, value := range p.header {
		token.Header[name] = value
	}
	text, err := token.SignedString(p.key)
	check(t, err)
	return text
}

func (p *phone) proof(t testing.TB, method, path string, body []byte) string {
	t.Helper()
	sum := sha256.Sum256(body)
	return p.sign(t, proofType, jwt.MapClaims{
		"htm": method, "htu": path, "iat": p.clock().Add(p.at).Unix(), "jti": rand.Text(), "body": encode(sum[:]),
	})
}

// ask sends a request with a proof and reads the answer.
func (p *phone) ask(t testing.TB, method, path string, body any) (status int, answer map[string]any) {
	t.Helper()
	var data []byte
	if body != nil {
		var err error
		data, err = json.Marshal(body)
		check(t, err)
	}
	return p.send(t, events.DeviceRequest{Method: method, Path: path, Body: data, Proof: "Device " + p.proof(t, method, path, data)})
}

func (s *site) send(t testing.TB, r events.DeviceRequest) (status int, answer map[string]any) {
	t.Helper()
	response, err := s.gateway.Device(t.Context(), r)
	check(t, err)
	if len(response.Body) > 0 {
		if err := json.Unmarshal(response.Body, &answer); err != nil {
			t.Fatalf("%d %s: %v", response.Status, response.Body, err)
		}
	}
	return response.Status, answer
}

// prompts is what the phone is asked.
func (p *phone) prompts(t testing.TB) []promptView {
	t.Helper()
	return fetch(t, p).Prompts
}

type fetched struct {
	Prompts []promptView
	Notices []noticeView
}

func fetch(t testing.TB, p *phone) (f fetched) {
	t.Helper()
	path := "/v1/authenticator/prompts"
	response, err := p.gateway.Device(t.Context(), events.DeviceRequest{Method: "GET", Path: path, Proof: "Device " + p.proof(t, "GET", path, nil)})
	check(t, err)
	if response.Status != http.StatusOK {
		t.Fatalf("%d %s", response.Status, response.Body)
	}
	check(t, json.Unmarshal(response.Body, &f))
	return f
}

// assertion signs an answer to a prompt. change may change what is signed.
func (p *phone) assertion(t testing.TB, asked promptView, decision, number string, change ...func(jwt.MapClaims)) string {
	t.Helper()
	claims := jwt.MapClaims{"login": asked.Login, "round": asked.Round, "nonce": asked.Nonce, "number": number, "decision": decision,
		"iat": p.clock().Add(p.at).Unix(), "jti": rand.Text()}
	for _, f := range change {
		f(claims)
	}
	return p.sign(t, assertionType, claims)
}

// answer sends an assertion and says in short what it came to: "approved 3", or the status of a problem.
func (p *phone) answer(t testing.TB, assertion string) string {
	t.Helper()
	status, answer := p.send(t, answering(assertion))
	if status != http.StatusOK {
		return fmt.Sprint(status)
	}
	return fmt.Sprint(answer["result"], " ", answer["attempts_left"])
}

// answering is the request with an assertion, which nothing else proves.
func answering(assertion string) events.DeviceRequest {
	return events.DeviceRequest{Method: "POST", Path: "/v1/authenticator/prompts", Body: []byte(`{"assertion":"` + assertion + `"}`)}
}

// asked is the one prompt that the phone has.
func (p *phone) asked(t testing.TB) promptView {
	t.Helper()
	prompts := p.prompts(t)
	if len(prompts) != 1 {
		t.Fatalf("%d prompts: %+v", len(prompts), prompts)
	}
	return prompts[0]
}
