package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services"
)

const (
	killLogins    = 1000 // each of a user of its own
	killInFlight  = 40
	killInstances = 3
)

// Three processes of each worker share the work of a thousand logins, and one of each is killed with -9 in the middle.
// No login is lost, none is granted twice, nobody gets two messages, and no code of a token grants two logins.
func TestKillAnyWorker(t *testing.T) {
	s := &system{t: t, dir: t.TempDir()}
	s.run(cheap+`gateway: {url: "https://login.example"}
limits: {logins_per_source: 100000, sms_per_user: 1000, sms_per_number: 1000, device_per_source: 100000, push_per_source: 100000}
database: {connections: 2}
`, nil)
	cluster := &cluster{t: t, system: s, binary: build(t), running: make(map[string][]*process)}
	for _, worker := range services.All {
		for range killInstances {
			cluster.start(worker.Name)
		}
	}
	t.Cleanup(cluster.stop)
	for _, gateway := range cluster.running["gateway"] {
		cluster.awaitReady(gateway)
	}
	cluster.addUsers()

	var done atomic.Int32
	var wg sync.WaitGroup
	killed := make(chan struct{})
	go func() { // a kill after each share of the logins, so that all fall into the run
		defer close(killed)
		for i, worker := range services.All {
			share := int32((i + 1) * killLogins / (len(services.All) + 2))
			poll(t, "done so far", func() bool { return done.Load() >= share })
			cluster.killOne(worker.Name)
		}
	}()
	slots := make(chan struct{}, killInFlight)
	for n := range killLogins {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			how := cluster.logIn
			if tokened(n) {
				how = cluster.logInByToken
			}
			if err := how(n); err != nil {
				t.Errorf("login %d: %v", n, err)
			}
			done.Add(1)
		})
	}
	wg.Wait()
	<-killed
	if t.Failed() {
		cluster.dumpLogs()
		return
	}
	cluster.checkRecord()
}

func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "sekisho")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../cmd/sekisho").CombinedOutput()
	if err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// A cluster is workers as processes of their own, on the broker, database and simulators of a system.
type cluster struct {
	t       *testing.T
	system  *system
	binary  string
	mu      sync.Mutex
	running map[string][]*process
	logins  sync.Map // id of an accepted login: its user
	tries   [killLogins]int
	phones  [killLogins]*phone // of those who log in by ID only
	tokens  [killLogins]*token // of those who log in by ID and one-time password
}

type process struct {
	*exec.Cmd
	http string // base URL, of gateways
	log  *lockedBuffer
	done chan struct{}
}

func (c *cluster) start(worker string) {
	c.t.Helper()
	p := &process{log: &lockedBuffer{}, done: make(chan struct{})}
	p.Cmd = exec.Command(c.binary, "run", worker)
	p.Env = append(os.Environ(), "SEKISHO_NATS_URL=nats://"+c.system.NATS, "SEKISHO_POSTGRES_URL="+c.system.Postgres,
		"SEKISHO_DATA_DIR="+c.system.dir, "SEKISHO_CONFIG="+filepath.Join(c.system.dir, "sekisho.yaml"), "SEKISHO_OPS_ADDR=127.0.0.1:0")
	if worker == "gateway" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(c.t, err)
		p.Env = append(p.Env, "SEKISHO_HTTP_ADDR="+l.Addr().String())
		p.http = "http://" + l.Addr().String()
		must(c.t, l.Close())
	}
	p.Stderr = p.log
	must(c.t, p.Start())
	go func() { defer close(p.done); _ = p.Wait() }()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running[worker] = append(c.running[worker], p)
}

// killOne kills the oldest process of a worker with -9 and starts another.
func (c *cluster) killOne(worker string) {
	c.kill(worker)
	c.start(worker)
}

// kill kills the oldest process of a worker with -9.
func (c *cluster) kill(worker string) {
	c.mu.Lock()
	victim := c.running[worker][0]
	c.running[worker] = c.running[worker][1:]
	c.mu.Unlock()
	_ = victim.Process.Kill()
	<-victim.done
}

func (c *cluster) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, all := range c.running {
		for _, p := range all {
			_ = p.Process.Signal(os.Interrupt)
		}
	}
	for worker, all := range c.running {
		for _, p := range all {
			select {
			case <-p.done:
			case <-time.After(patience):
				c.t.Errorf("%s did not stop", worker)
				_ = p.Process.Kill()
				<-p.done
			}
		}
	}
}

// dumpLogs shows what the processes complained about.
func (c *cluster) dumpLogs() {
	for worker, all := range c.running {
		for _, p := range all {
			for line := range strings.Lines(p.log.String()) {
				if !strings.Contains(line, `"level":"info"`) {
					c.t.Logf("%s: %s", worker, strings.TrimSpace(line))
				}
			}
		}
	}
}

func (c *cluster) awaitReady(gateway *process) {
	c.t.Helper()
	poll(c.t, "gateway listening", func() bool {
		res, err := http.Get(gateway.http + "/login")
		if err == nil {
			res.Body.Close()
		}
		return err == nil
	})
}

func userName(n int) string  { return fmt.Sprintf("user%d", n) }
func userPhone(n int) string { return fmt.Sprintf("+8190222%05d", n) }

// doubted tells whether the risk provider asks for another factor.
func doubted(n int) bool { return n%2 == 1 }

// passwordless tells whether a user logs in by ID only, and approves on a phone.
func passwordless(n int) bool { return n%4 == 2 }

// tokened tells whether a user logs in by ID and one-time password, twice at once with one code.
func tokened(n int) bool { return n%8 == 4 }

func (c *cluster) addUsers() {
	c.t.Helper()
	c.system.Ops = c.opsOf(c.running["console"][0])
	tokens := c.system.tokens()
	for n := range killLogins {
		c.system.addUser(userName(n), userPhone(n))
		if doubted(n) {
			c.system.risk(userName(n), "REVIEW")
		}
		if passwordless(n) {
			c.phones[n] = newPhone(c.t, c.forward)
			c.phones[n].enroll(c.system.invite(userName(n)), "phone")
		}
		if tokened(n) {
			c.tokens[n] = c.system.give(tokens, userName(n), byEvent)
		}
	}
}

// forward takes a phone's request to one of the gateways. That it died, or is not there, looks like an outage.
func (c *cluster) forward(r events.DeviceRequest) (status int, answer []byte) {
	status, answer, err := send(c.t.Context(), r.Method, c.someGateway()+r.Path, r.Proof, r.Body)
	if err != nil {
		return http.StatusServiceUnavailable, []byte("{}")
	}
	return status, answer
}

// approve has a user's phone approve a login. An answer that nobody acknowledged may have been heard, so that the next is late.
func (c *cluster) approve(user int, l login) error {
	about := c.phones[user].asked(loginOf(l))
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		switch status, result := c.phones[user].decide(about, "approve", l.Challenge.Number); {
		case status == http.StatusServiceUnavailable:
		case status == http.StatusConflict, status == http.StatusOK && result == "approved":
			return nil
		default:
			return fmt.Errorf("the phone got %d %s", status, result)
		}
	}
	return errors.New("the phone got no answer")
}

// opsOf waits for a process to say where its operations address is.
func (c *cluster) opsOf(p *process) (address string) {
	c.t.Helper()
	poll(c.t, "operations address", func() bool {
		for line := range strings.Lines(p.log.String()) {
			var said struct{ Addr string }
			if json.Unmarshal([]byte(line), &said) == nil && said.Addr != "" {
				address = "http://" + said.Addr
			}
		}
		return address != ""
	})
	poll(c.t, "ready", func() bool {
		res, err := http.Get(address + "/readyz")
		if err == nil {
			res.Body.Close()
		}
		return err == nil && res.StatusCode == http.StatusOK
	})
	return address
}

// request asks one of the gateways, and another while one is not there: a client behind a load balancer. A request that
// starts a login is not repeated, since it is not known whether the first was heard.
func (c *cluster) request(method, path, bearer string, body, dst any) (status int, err error) {
	data, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		var answer []byte
		status, answer, err = send(c.t.Context(), method, c.someGateway()+path, "Bearer "+bearer, data)
		switch {
		case err == nil && status/100 == 2:
			return status, json.Unmarshal(answer, dst)
		case err == nil && status != http.StatusServiceUnavailable:
			return status, nil // a problem document
		case err != nil && path == "/v1/logins":
			return 0, err
		}
	}
	return status, fmt.Errorf("no gateway answers: %w", err)
}

func (c *cluster) someGateway() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running["gateway"][rand.IntN(len(c.running["gateway"]))].http
}

func send(ctx context.Context, method, address, authorization string, body []byte) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	return res.StatusCode, answer, err
}

// logIn takes one user through a login.
func (c *cluster) logIn(user int) error {
	var l login
	for l.ID == "" {
		c.tries[user]++ // a gateway that dies before it answers leaves a login that nobody was told of
		body := map[string]any{"user": userName(user), "method": "password", "password": userPassword, "app": "demo", "tokens": true, "wait": "20s"}
		if passwordless(user) {
			body["method"] = "none"
			delete(body, "password")
		}
		if status, err := c.request(http.MethodPost, "/v1/logins", "", body, &l); err == nil && status != http.StatusCreated {
			return fmt.Errorf("start: %d", status)
		}
	}
	c.logins.Store(l.ID, user)
	// A login that nobody was told of may have sent a code too, and no message says which login it is for: the newest code
	// is typed first, as the phone's owner would, and another one when it was wrong.
	tried, said, approved := make(map[string]bool), []int(nil), false
	token := l.LoginToken
	for deadline := time.Now().Add(4 * time.Minute); l.Status != "granted"; {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is still %s %+v, its answers got %d", l.ID, l.Status, l.Challenge, said)
		}
		path, method, body := fmt.Sprintf("/v1/logins/%s?after=%d&wait=5s", l.ID, l.Version), http.MethodGet, any(nil)
		if l.Status == "challenge" && passwordless(user) {
			if !approved {
				if err := c.approve(user, l); err != nil {
					return fmt.Errorf("%s: %w", l.ID, err)
				}
				approved = true
			}
		} else if l.Status == "challenge" && l.Challenge.AttemptsLeft <= 5-len(tried) {
			sent := c.system.codes(userPhone(user))
			if len(sent) == 0 {
				return fmt.Errorf("%s is challenged and nothing was sent", l.ID)
			}
			for _, code := range sent {
				if !tried[code] {
					path, method = "/v1/logins/"+l.ID+"/answers", http.MethodPost
					body = map[string]any{"code": code, "wait": "20s"}
					tried[code] = true
					break
				}
			}
		} else if l.Status != "pending" && l.Status != "challenge" {
			return fmt.Errorf("%s is %s %s", l.ID, l.Status, l.Reason)
		}
		var now login
		status, err := c.request(method, path, token, body, &now)
		if method == http.MethodPost {
			said = append(said, status)
		}
		switch {
		case err != nil:
			return fmt.Errorf("%s: %s: %w", l.ID, method, err)
		case status == http.StatusOK || status == http.StatusAccepted:
			l = now
		case status == http.StatusConflict && method == http.MethodPost: // the answer of the gateway that died was heard
		default:
			return fmt.Errorf("%s: %s: status %d", l.ID, method, status)
		}
	}
	return nil
}

// logInByToken takes one user through two logins at once, which begin with the same code.
func (c *cluster) logInByToken(user int) error {
	var mu sync.Mutex
	press := func() string {
		mu.Lock()
		defer mu.Unlock()
		return c.tokens[user].press("")
	}
	first, results := press(), make(chan error)
	for range 2 {
		go func() { results <- c.typeCodes(user, first, press) }()
	}
	return errors.Join(<-results, <-results)
}

// typeCodes logs in with a code, and types the token's next one whenever that was not accepted, or came to a login that nobody was told of.
func (c *cluster) typeCodes(user int, code string, press func() string) error {
	var l login
	for ; l.ID == ""; code = "" {
		if code == "" {
			code = press()
		}
		body := map[string]any{"user": userName(user), "method": "none", "code": code, "app": "demo", "tokens": true, "wait": "20s"}
		if status, err := c.request(http.MethodPost, "/v1/logins", "", body, &l); err == nil && status != http.StatusCreated {
			return fmt.Errorf("start: %d", status)
		}
	}
	c.logins.Store(l.ID, user)
	token, left, idle, deadline := l.LoginToken, 5, false, time.Now().Add(4*time.Minute)
	for l.Status != "granted" {
		if time.Now().After(deadline) || l.Status != "pending" && l.Status != "challenge" {
			return fmt.Errorf("%s is %s %s %+v", l.ID, l.Status, l.Reason, l.Challenge)
		}
		var now login
		path, method, body := fmt.Sprintf("/v1/logins/%s?after=%d&wait=5s", l.ID, l.Version), http.MethodGet, any(nil)
		if l.Challenge != nil && (l.Challenge.AttemptsLeft < left || idle) {
			left = l.Challenge.AttemptsLeft
			path, method, body = "/v1/logins/"+l.ID+"/answers", http.MethodPost, map[string]any{"code": press(), "wait": "20s"}
		}
		switch status, err := c.request(method, path, token, body, &now); {
		case err != nil:
			return fmt.Errorf("%s: %s: %w", l.ID, method, err)
		case status == http.StatusOK || status == http.StatusAccepted:
			l, idle = now, now.Version == l.Version
		case status == http.StatusConflict && method == http.MethodPost: // the answer of the gateway that died was heard
			idle = false
		default:
			return fmt.Errorf("%s: %s: status %d", l.ID, method, status)
		}
	}
	return nil
}

// checkRecord holds what PostgreSQL and the phones know against what the users saw.
func (c *cluster) checkRecord() {
	c.t.Helper()
	ctx := c.t.Context()
	db, err := pgx.Connect(ctx, c.system.Postgres)
	must(c.t, err)
	defer db.Close(context.WithoutCancel(ctx))
	count := func(query string) (n int) {
		c.t.Helper()
		must(c.t, db.QueryRow(ctx, query).Scan(&n))
		return n
	}
	c.logins.Range(func(id, user any) bool {
		var sessions int
		must(c.t, db.QueryRow(ctx, "SELECT count(*) FROM sessions.sessions WHERE login = $1", id).Scan(&sessions))
		if sessions != 1 {
			c.t.Errorf("login %v has %d sessions", id, sessions)
		}
		return true
	})
	for n := range killLogins {
		sent := c.system.codes(userPhone(n))
		codes := make(map[string]bool)
		for _, code := range sent {
			codes[code] = true
		}
		switch {
		case !doubted(n) && len(sent) > 0:
			c.t.Errorf("user %d was not doubted and got %d messages", n, len(sent))
		case doubted(n) && (len(sent) == 0 || len(sent) > c.tries[n] || len(codes) != len(sent)):
			c.t.Errorf("user %d started %d logins and got %d messages with %d codes", n, c.tries[n], len(sent), len(codes))
		}
	}
	// The audit log follows: as many grants as sessions, and one ending of each login. A login that nobody was told of,
	// since its gateway died, is granted or still waits for its code.
	poll(c.t, "audited", func() bool {
		return count("SELECT count(*) FROM audit.logins WHERE outcome = 'granted'") == count("SELECT count(*) FROM sessions.sessions")
	})
	if odd := count("SELECT count(*) FROM audit.logins WHERE outcome <> 'granted'"); odd > 0 {
		c.t.Errorf("%d logins ended otherwise than granted", odd)
	}
	if n := count(`SELECT count(*) FROM (SELECT data->>'authenticator', data->>'counter' FROM audit.events
		WHERE step = 'verified' AND data->>'factor' = 'token' GROUP BY 1, 2 HAVING count(*) > 1) x`); n > 0 {
		c.t.Errorf("%d codes of tokens were accepted twice", n)
	}
	if doubled := count("SELECT count(*) FROM (SELECT login FROM audit.events WHERE step = 'closed' GROUP BY gateway, login HAVING count(*) > 1) x"); doubled > 0 {
		c.t.Errorf("%d logins ended twice", doubled)
	}
}
