package runtime_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/setup"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// patience bounds every wait of a test. A right program never needs it.
const patience = 30 * time.Second

// A ground is what processes run on: a folder, a database, and a broker that may come later.
type ground struct {
	cfg      *config.Config
	folder   *credentials.Folder
	dir      string
	natsAddr string
	postgres string
	log      zerolog.Logger
}

func newGround(t *testing.T) *ground {
	t.Helper()
	dir := t.TempDir()
	g := &ground{cfg: config.Default(), dir: dir, folder: credentials.Open(filepath.Join(dir, "credentials")), log: zerolog.Nop()}
	must(t, setup.Credentials(g.cfg, g.folder, time.Now()))
	g.postgres = testenv.Postgres(t)
	must(t, setup.Postgres(t.Context(), g.postgres, g.folder, zerolog.Nop()))
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free when the broker comes
	must(t, err)
	g.natsAddr = l.Addr().String()
	must(t, l.Close())
	return g
}

func (g *ground) startBroker(t *testing.T) *server.Server {
	t.Helper()
	s := g.startEmptyBroker(t)
	g.provision(t)
	return s
}

func (g *ground) startEmptyBroker(t *testing.T) *server.Server {
	t.Helper()
	keys, err := setup.NKeys(g.cfg, g.folder)
	must(t, err)
	s, err := bus.StartServer(bus.ServerConfig{
		Addr: g.natsAddr, Dir: filepath.Join(g.dir, "nats"), Gateways: setup.Gateways(g.cfg), Keys: keys, Log: zerolog.Nop(),
	})
	must(t, err)
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

func (g *ground) provision(t *testing.T) {
	t.Helper()
	nc, err := setup.Connect(t.Context(), "nats://"+g.natsAddr, g.folder, zerolog.Nop())
	must(t, err)
	defer nc.Close()
	must(t, setup.NATS(t.Context(), nc, g.cfg, g.folder))
}

// A proc is one running process of workers.
type proc struct {
	t           *testing.T
	ops, public string
	ready       chan struct{}
	stop        context.CancelFunc
	ended       chan error
}

func (g *ground) run(t *testing.T, services ...runtime.Service) *proc {
	t.Helper()
	ops, err := runtime.Listen("SEKISHO_OPS_ADDR", "127.0.0.1:0")
	must(t, err)
	public, err := runtime.Listen("SEKISHO_HTTP_ADDR", "127.0.0.1:0")
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	p := &proc{t: t, ops: "http://" + ops.Addr().String(), public: "http://" + public.Addr().String(),
		ready: make(chan struct{}), stop: stop, ended: make(chan error, 1)}
	go func() {
		p.ended <- runtime.Run(ctx, runtime.Options{
			Services: services, Config: g.cfg, Credentials: g.folder, Log: g.log,
			NATSURL: "nats://" + g.natsAddr, PostgresURL: g.postgres, Public: public, Ops: ops,
			Ready: func() { close(p.ready) },
		})
	}()
	t.Cleanup(func() {
		stop()
		http.DefaultClient.CloseIdleConnections()
	})
	return p
}

func (p *proc) awaitReady() {
	p.t.Helper()
	select {
	case <-p.ready:
	case err := <-p.ended:
		p.t.Fatalf("ended before it was ready: %v", err)
	case <-time.After(patience):
		p.t.Fatal("never ready")
	}
}

func (p *proc) end() error {
	p.t.Helper()
	p.stop()
	select {
	case err := <-p.ended:
		return err
	case <-time.After(patience):
		p.t.Fatal("does not end")
		return nil
	}
}

// get returns the status of an answer and its body.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(body)
}

// await polls /readyz until it says what is wanted.
func (p *proc) await(what string, ok func(status int, body string) bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		status, body := get(p.t, p.ops+"/readyz")
		if ok(status, body) {
			return
		}
		select {
		case <-ctx.Done():
			p.t.Fatalf("%s: still %d %s", what, status, body)
		case <-tick.C:
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refuser is a worker that refuses every login.
func refuser(worker runtime.Worker) runtime.Service {
	return runtime.Service{Name: "identityverifier", Build: func(_ context.Context, env *runtime.Env) (*runtime.Worker, error) {
		worker.Handlers = []bus.Handler{bus.On(func(_ context.Context, e *events.Event, _ *events.Requested) ([]*events.Event, error) {
			return []*events.Event{events.New(e.Login, 0, &events.Refused{Reason: "unknown_user"})}, nil
		})}
		return &worker, nil
	}}
}

func idle(name string, worker runtime.Worker) runtime.Service {
	return runtime.Service{Name: name, Build: func(context.Context, *runtime.Env) (*runtime.Worker, error) { return &worker, nil }}
}

func TestWorkersWaitForBrokerAndThenWork(t *testing.T) {
	g := newGround(t)
	p := g.run(t, refuser(runtime.Worker{}), idle("recorder", runtime.Worker{}))
	if status, _ := get(t, p.ops+"/healthz"); status != http.StatusOK {
		t.Errorf("healthz says %d", status)
	}
	if status, body := get(t, p.ops+"/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "starting") {
		t.Errorf("readyz says %d %s", status, body)
	}
	g.startBroker(t)
	p.awaitReady()
	if status, body := get(t, p.ops+"/readyz"); status != http.StatusOK {
		t.Errorf("readyz says %d %s", status, body)
	}
	awaitRefusal(t, g)
	if _, body := get(t, p.ops+"/metrics"); !strings.Contains(body, `worker="identityverifier"`) || !strings.Contains(body, "go_goroutines") ||
		!strings.Contains(body, "process_open_fds") {
		t.Error("metrics lack a worker's, the runtime's or the process's")
	}
	must(t, p.end())
}

// awaitRefusal asks for a login as gateway web and waits for the refusal.
func awaitRefusal(t *testing.T, g *ground) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	seed, err := g.folder.Seed("web")
	must(t, err)
	web, err := bus.Dial("nats://"+g.natsAddr, "web", seed, zerolog.Nop())
	must(t, err)
	defer web.Close()
	login := testenv.NewLogin(t, "web")
	e := events.New(login, 0, requested(t, g, login))
	e.By, e.Time = "gateway/web", time.Now()
	msg, err := e.Message()
	must(t, err)
	_, err = web.RequestMsgWithContext(ctx, msg)
	must(t, err)

	seed, err = g.folder.Seed(bus.UserViewer)
	must(t, err)
	viewer, err := bus.Connect(bus.Config{Worker: bus.UserViewer, URL: "nats://" + g.natsAddr, Seed: seed, Log: zerolog.Nop()})
	must(t, err)
	defer viewer.Close()
	testenv.Eventually(t, "it is refused", func() bool {
		_, err := viewer.Event(ctx, login, events.StepRefused, 0)
		return err == nil
	})
}

func requested(t *testing.T, g *ground, login events.Login) *events.Requested {
	t.Helper()
	sealer, err := g.folder.Sealer()
	must(t, err)
	identity, err := sealer.Seal("identityverifier", login.Subject(events.StepRequested, 0), "identity", events.Identity{User: "nobody", Password: "x"})
	must(t, err)
	return &events.Requested{App: "demo", Method: events.Password, Deadline: time.Now().Add(time.Minute), Identity: identity}
}

func TestStopWhileWaitingIsNoError(t *testing.T) {
	g := newGround(t)
	p := g.run(t, refuser(runtime.Worker{}))
	if status, _ := get(t, p.ops+"/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("readyz says %d without a broker", status)
	}
	must(t, p.end())
}

func TestBuildErrorStopsTheStart(t *testing.T) {
	g := newGround(t)
	g.startBroker(t)
	broken := errors.New("policy.yaml:3: unknown factor")
	p := g.run(t, idle("recorder", runtime.Worker{}), runtime.Service{Name: "console",
		Build: func(context.Context, *runtime.Env) (*runtime.Worker, error) { return nil, broken }})
	select {
	case err := <-p.ended:
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "worker console") {
			t.Errorf("got %v", err)
		}
	case <-time.After(patience):
		t.Fatal("runs on")
	}
}

func TestEnvIsTheWorkersOwn(t *testing.T) {
	g := newGround(t)
	g.startBroker(t)
	var role, name string
	p := g.run(t, runtime.Service{Name: "recorder", Build: func(ctx context.Context, env *runtime.Env) (*runtime.Worker, error) {
		name = env.Bus.Conn().Opts.Name
		return &runtime.Worker{}, env.DB.QueryRow(ctx, "SELECT current_user").Scan(&role)
	}})
	p.awaitReady()
	must(t, p.end())
	if role != "recorder" || !strings.Contains(name, "recorder") {
		t.Errorf("role %q, NATS connection %q", role, name)
	}
}

func TestReadyTellsWhatIsLacking(t *testing.T) {
	g := newGround(t)
	broker := g.startBroker(t)
	var full atomic.Bool
	fails := make(chan struct{})
	p := g.run(t, idle("recorder", runtime.Worker{
		Ready: func(context.Context) error {
			if full.Load() {
				return errors.New("the disk is full")
			}
			return nil
		},
		Run: []func(context.Context) error{
			func(ctx context.Context) error { <-ctx.Done(); return nil },
			func(ctx context.Context) error {
				select {
				case <-ctx.Done():
					return nil
				case <-fails:
					return errors.New("lost the lock")
				}
			},
		},
	}))
	p.awaitReady()

	full.Store(true)
	status, body := get(t, p.ops+"/readyz")
	var answer struct {
		NotReady []struct{ Worker, Part, Error string } `json:"not_ready"`
	}
	must(t, json.Unmarshal([]byte(body), &answer))
	if status != http.StatusServiceUnavailable || len(answer.NotReady) != 1 || answer.NotReady[0].Worker != "recorder" || answer.NotReady[0].Error != "the disk is full" {
		t.Errorf("readyz says %d %s", status, body)
	}
	full.Store(false)

	close(fails) // it fails at once whenever it is started again
	p.await("a loop that fails", func(status int, body string) bool {
		return status == http.StatusServiceUnavailable && strings.Contains(body, "loop 2") && strings.Contains(body, "lost the lock")
	})

	broker.Shutdown()
	p.await("a broker that is away", func(_ int, body string) bool { return strings.Contains(body, `"bus"`) })
	broker.WaitForShutdown()
	g.startBroker(t)
	p.await("a broker that is back", func(_ int, body string) bool { return !strings.Contains(body, `"bus"`) })
	must(t, p.end())
}

// Requests are served until they end, with the workers still there for them; then loops end, then Close is called.
func TestDrainKeepsTheOrder(t *testing.T) {
	g := newGround(t)
	g.startBroker(t)
	var mu sync.Mutex
	var order []string
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, what)
	}
	arrived, finish := make(chan struct{}), make(chan struct{})
	p := g.run(t, idle("gateway", runtime.Worker{
		Public: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(arrived)
			<-finish
			note("request")
		}),
		Run:   []func(context.Context) error{func(ctx context.Context) error { <-ctx.Done(); note("loop"); return nil }},
		Close: func() { note("close") },
	}))
	p.awaitReady()
	answered := make(chan int, 1)
	go func() {
		resp, err := http.Post(p.public, "text/plain", nil)
		if err != nil {
			t.Error(err)
			answered <- 0
			return
		}
		resp.Body.Close()
		answered <- resp.StatusCode
	}()
	<-arrived
	p.stop()
	p.await("draining", func(status int, body string) bool {
		return status == http.StatusServiceUnavailable && strings.Contains(body, "shutting down")
	})
	close(finish)
	if status := <-answered; status != http.StatusOK {
		t.Errorf("the request was answered %d", status)
	}
	must(t, p.end())
	if got := strings.Join(order, " "); got != "request loop close" {
		t.Errorf("ended in the order %q", got)
	}
}

func TestGraceBoundsTheDrain(t *testing.T) {
	g := newGround(t)
	g.cfg.Shutdown.Grace = time.Millisecond
	g.startBroker(t)
	finish, closed := make(chan struct{}), make(chan struct{})
	p := g.run(t, idle("recorder", runtime.Worker{
		Run:   []func(context.Context) error{func(context.Context) error { <-finish; return nil }},
		Close: func() { close(closed) },
	}))
	p.awaitReady()
	if err := p.end(); err == nil || !strings.Contains(err.Error(), "still running") {
		t.Errorf("got %v", err)
	}
	select {
	case <-closed:
		t.Error("closed under a loop that runs")
	default:
	}
	close(finish)
	<-closed
}

func TestHangupReloads(t *testing.T) {
	g := newGround(t)
	g.startBroker(t)
	reloaded := make(chan string, 2)
	p := g.run(t,
		idle("console", runtime.Worker{Reload: func() error { reloaded <- "console"; return errors.New("bad file") }}),
		idle("recorder", runtime.Worker{Reload: func() error { reloaded <- "recorder"; return nil }}))
	p.awaitReady()
	must(t, syscall.Kill(syscall.Getpid(), syscall.SIGHUP))
	got := map[string]bool{<-reloaded: true, <-reloaded: true}
	if !got["console"] || !got["recorder"] {
		t.Errorf("reloaded %v", got)
	}
	if status, body := get(t, p.ops+"/readyz"); status != http.StatusOK {
		t.Errorf("a reload that failed left %d %s", status, body)
	}
	must(t, p.end())
}

// Whoever sends the signal to all processes does no harm to one that still waits for the bus.
func TestHangupWhileStarting(t *testing.T) {
	g := newGround(t)
	nothing := make(chan struct{})
	g.log = zerolog.New(io.Discard).Hook(zerolog.HookFunc(func(_ *zerolog.Event, _ zerolog.Level, message string) {
		if message == "nothing to reload" {
			close(nothing)
		}
	}))
	p := g.run(t, idle("console", runtime.Worker{}))
	get(t, p.ops+"/healthz")
	must(t, syscall.Kill(syscall.Getpid(), syscall.SIGHUP)) // ends this program unless the process has asked for it
	g.startBroker(t)
	p.awaitReady()
	select {
	case <-nothing:
	case <-time.After(patience):
		t.Error("never says that there is nothing to reload")
	}
	must(t, p.end())
}

// A broker that comes back without its store has no consumers: a worker can do nothing until they are set up again.
func TestReadyTellsThatConsumersAreGone(t *testing.T) {
	g := newGround(t)
	broker := g.startBroker(t)
	p := g.run(t, runtime.Service{Name: "recorder", Build: func(_ context.Context, env *runtime.Env) (*runtime.Worker, error) {
		return &runtime.Worker{Run: []func(context.Context) error{func(ctx context.Context) error {
			return env.Bus.Batches(ctx, bus.StreamArchive, 1, time.Millisecond, func(context.Context, []bus.Stored) error { return nil })
		}}}, nil
	}})
	p.awaitReady()
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C { // until it has seen its consumer
		if _, body := get(t, p.ops+"/metrics"); strings.Contains(body, `sekisho_consumer_lag{step="ARCHIVE"`) {
			break
		}
	}
	broker.Shutdown()
	broker.WaitForShutdown()
	must(t, os.RemoveAll(filepath.Join(g.dir, "nats")))
	g.startEmptyBroker(t)
	p.await("a consumer that is gone", func(status int, body string) bool {
		return status == http.StatusServiceUnavailable && strings.Contains(body, `"part":"bus","error":"consumer recorder-archive`)
	})
	g.provision(t)
	p.await("a consumer that is back", func(status int, _ string) bool { return status == http.StatusOK })
	must(t, p.end())
}

func TestAdminIsServedOnTheOpsAddressOnly(t *testing.T) {
	g := newGround(t)
	g.startBroker(t)
	p := g.run(t,
		idle("gateway", runtime.Worker{Public: http.NotFoundHandler()}),
		idle("console", runtime.Worker{Admin: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) })}))
	p.awaitReady()
	if status, body := get(t, p.ops+"/admin/v1/users"); status != http.StatusOK || body != "/admin/v1/users" {
		t.Errorf("ops: %d %s", status, body)
	}
	for _, path := range []string{"/admin/v1/users", "/readyz", "/healthz", "/metrics"} {
		if status, _ := get(t, p.public+path); status != http.StatusNotFound {
			t.Errorf("public %s: %d", path, status)
		}
	}
	must(t, p.end())
}

func TestProfilesAreServedOnDemandOnly(t *testing.T) {
	g := newGround(t)
	g.startBroker(t)
	status := func(wanted bool) int {
		g.cfg.Debug.Profiles = wanted
		p := g.run(t, idle("recorder", runtime.Worker{}))
		p.awaitReady()
		status, _ := get(t, p.ops+"/debug/pprof/heap?debug=1")
		must(t, p.end())
		return status
	}
	if with, without := status(true), status(false); with != http.StatusOK || without != http.StatusNotFound {
		t.Errorf("heap profile: %d with debug.profiles, %d without", with, without)
	}
}

// A database that takes no writes, as a standby, is like none: a worker waits for another, and is not ready with it.
func TestDatabaseThatTakesNoWrites(t *testing.T) {
	g := newGround(t)
	g.startBroker(t)
	g.cfg.Database.Connections = 1
	admin, err := pgx.Connect(t.Context(), g.postgres)
	must(t, err)
	defer admin.Close(t.Context())
	readOnly := func(value string) {
		t.Helper()
		_, err := admin.Exec(t.Context(), "ALTER DATABASE "+pgx.Identifier{admin.Config().Database}.Sanitize()+" SET default_transaction_read_only = "+value)
		must(t, err)
	}
	readOnly("on")
	said := make(lines, 1000)
	g.log = zerolog.New(said)
	var demote atomic.Bool
	p := g.run(t, runtime.Service{Name: "recorder", Build: func(_ context.Context, env *runtime.Env) (*runtime.Worker, error) {
		return &runtime.Worker{Ready: func(ctx context.Context) error {
			if !demote.Load() {
				return nil
			}
			_, err := env.DB.Exec(ctx, "SET default_transaction_read_only = on")
			return err
		}}, nil
	}})
	for line := range said {
		if strings.Contains(line, "waiting for the database") && strings.Contains(line, "read only") {
			break
		}
	}
	readOnly("off")
	p.awaitReady()
	for _, becomes := range []func(){
		func() { // under new connections
			readOnly("on")
			_, err := admin.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'recorder' AND datname = current_database()")
			must(t, err)
		},
		func() { readOnly("off"); demote.Store(true) }, // under one that is there
	} {
		p.await("a database that takes writes", func(status int, _ string) bool { return status == http.StatusOK })
		becomes()
		p.await("a database that takes none", func(status int, body string) bool {
			return status == http.StatusServiceUnavailable && strings.Contains(body, `"part":"database","error":"takes no writes"`)
		})
		readOnly("off")
	}
	must(t, p.end())
}

// lines are what is logged.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	select {
	case l <- string(p):
	default:
	}
	return len(p), nil
}
