package setup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/credentials"
	"github.com/sekisho/sekisho/services/internal/migrations"
	"github.com/sekisho/sekisho/services/internal/setup"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A site is an empty database and a broker that knows the users of a folder.
type site struct {
	cfg    *config.Config
	env    config.Environment
	folder *credentials.Folder
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{cfg: config.Default(), folder: credentials.Open(filepath.Join(dir, "credentials"))}
	must(t, setup.Credentials(s.cfg, s.folder, time.Now()))
	// The broker reads its users from the file that setup writes, as one that is not embedded does.
	conf := filepath.Join(dir, "nats.conf")
	must(t, os.WriteFile(conf, []byte("jetstream: enabled\ninclude 'credentials/nats-users.conf'\n"), 0o600))
	broker := startBroker(t, brokerOptions(t, conf))
	s.env = config.Environment{NATSURL: broker.ClientURL(), PostgresURL: testenv.Postgres(t), CredentialsDir: s.folder.Dir()}
	return s
}

// brokerOptions reads a broker's configuration, for a port and a store of the test.
func brokerOptions(t *testing.T, conf string) *server.Options {
	t.Helper()
	opts, err := server.ProcessConfigFile(conf)
	must(t, err)
	opts.Host, opts.Port, opts.HTTPPort = "127.0.0.1", server.RANDOM_PORT, 0
	opts.StoreDir, opts.PidFile, opts.NoSigs = filepath.Join(filepath.Dir(conf), "nats"), "", true
	return opts
}

func startBroker(t *testing.T, opts *server.Options) *server.Server {
	t.Helper()
	broker, err := server.NewServer(opts)
	must(t, err)
	go broker.Start()
	t.Cleanup(func() { broker.Shutdown(); broker.WaitForShutdown() })
	if !broker.ReadyForConnections(30 * time.Second) {
		t.Fatal("the broker is not ready")
	}
	return broker
}

func (s *site) run(ctx context.Context) error { return setup.Run(ctx, s.cfg, s.env, zerolog.Nop()) }

func (s *site) jetStream(t *testing.T) jetstream.JetStream {
	t.Helper()
	nc, err := setup.Connect(t.Context(), s.env.NATSURL, s.folder, zerolog.Nop())
	must(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	must(t, err)
	return js
}

func TestSetupProvisionsEverythingAndMayBeRepeated(t *testing.T) {
	s := newSite(t)
	for range 2 {
		must(t, s.run(t.Context()))
	}
	js := s.jetStream(t)
	for _, want := range bus.Streams(1) {
		if _, err := js.Stream(t.Context(), want.Name); err != nil {
			t.Errorf("stream %s: %v", want.Name, err)
		}
	}
	keys, err := js.Stream(t.Context(), "KEYS")
	must(t, err)
	public, err := s.folder.PublicKeys()
	must(t, err)
	if got := keys.CachedInfo().State.Msgs; got != uint64(len(public)) || got == 0 {
		t.Errorf("KEYS has %d messages after two runs, want one for each of %d recipients", got, len(public))
	}
	for _, role := range migrations.Roles {
		if user := s.loginAs(t, role); user != role {
			t.Errorf("role %s is %q", role, user)
		}
	}
}

// loginAs connects with the folder's password of a role.
func (s *site) loginAs(t *testing.T, role string) (user string) {
	t.Helper()
	password, err := s.folder.Password(role)
	must(t, err)
	u, err := url.Parse(s.env.PostgresURL)
	must(t, err)
	u.User = url.UserPassword(role, password)
	conn, err := pgx.Connect(t.Context(), u.String())
	must(t, err)
	defer conn.Close(context.Background())
	must(t, conn.QueryRow(t.Context(), "SELECT current_user").Scan(&user))
	return user
}

func TestManySetupsAtOnce(t *testing.T) {
	s := newSite(t)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := s.run(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestNewPasswordsReplaceTheOld(t *testing.T) {
	s := newSite(t)
	must(t, s.run(t.Context()))
	must(t, os.Remove(filepath.Join(s.folder.Dir(), "postgres.json")))
	must(t, s.run(t.Context()))
	s.loginAs(t, "recorder")
}

// sql runs a statement as the admin.
func (s *site) sql(t *testing.T, statement string) {
	t.Helper()
	admin, err := pgx.Connect(t.Context(), s.env.PostgresURL)
	must(t, err)
	defer admin.Close(context.WithoutCancel(t.Context()))
	_, err = admin.Exec(t.Context(), statement)
	must(t, err)
}

// A dump of roles that an admin has restored who is no superuser made them without the right to log in.
func TestRolesMayLogInAfterwards(t *testing.T) {
	s := newSite(t)
	must(t, s.run(t.Context()))
	s.sql(t, "ALTER ROLE recorder NOLOGIN")
	must(t, s.run(t.Context()))
	s.loginAs(t, "recorder")
}

// A dump that was restored before its roles has no rights, which is found here and not by each worker.
func TestRolesWithoutRightsAreNamed(t *testing.T) {
	s := newSite(t)
	must(t, s.run(t.Context()))
	s.sql(t, "REVOKE ALL ON ALL TABLES IN SCHEMA audit, directory, sessions FROM recorder")
	if err := s.run(t.Context()); err == nil || !strings.Contains(err.Error(), "without rights: recorder;") {
		t.Errorf("got %v", err)
	}
}

func TestOtherSettingsAreReportedAndNotChanged(t *testing.T) {
	s := newSite(t)
	must(t, s.run(t.Context()))
	js := s.jetStream(t)
	stream, err := js.Stream(t.Context(), "DEAD")
	must(t, err)
	other := stream.CachedInfo().Config
	other.MaxAge = time.Hour
	_, err = js.UpdateStream(t.Context(), other)
	must(t, err)

	err = s.run(t.Context())
	if !errors.Is(err, bus.ErrDiffers) || !strings.Contains(err.Error(), "DEAD") || !strings.Contains(err.Error(), "max_age") {
		t.Errorf("got %v", err)
	}
	stream, err = js.Stream(t.Context(), "DEAD")
	must(t, err)
	if got := stream.CachedInfo().Config.MaxAge; got != time.Hour {
		t.Errorf("max age became %v", got)
	}
}

// What the error says to do, word for word, has the next run succeed.
func TestBrokerThatDoesNotKnowTheUsersIsExplained(t *testing.T) {
	s := newSite(t)
	strange := credentials.Open(filepath.Join(t.TempDir(), "credentials"))
	s.env.CredentialsDir = strange.Dir()
	err := s.run(t.Context())
	if err == nil {
		t.Fatal("the broker knows a user of another folder")
	}
	told := regexp.MustCompile("put `(include .*)` into its configuration in (\\S+) ").FindStringSubmatch(err.Error())
	if told == nil {
		t.Fatalf("got %v", err)
	}
	conf := filepath.Join(told[2], "nats.conf")
	must(t, os.WriteFile(conf, []byte("jetstream: enabled\n"+told[1]+"\n"), 0o600))
	s.env.NATSURL = startBroker(t, brokerOptions(t, conf)).ClientURL()
	must(t, s.run(t.Context()))
}

// deploy/nats.conf is a configuration for what setup provisions, and what is commented out in it is one too.
func TestDeployedBroker(t *testing.T) {
	deployed, err := os.ReadFile("../../../deploy/nats.conf")
	must(t, err)
	cluster := regexp.MustCompile(`(?m)^( *)#(\S|  )`).ReplaceAll(deployed, []byte("$1$2")) // sentences stand after one space
	for name, text := range map[string][]byte{"as it is": deployed, "with what is commented out": cluster} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			cfg, folder := config.Default(), credentials.Open(filepath.Join(dir, "credentials"))
			must(t, setup.Credentials(cfg, folder, time.Now()))
			conf := filepath.Join(dir, "nats.conf")
			must(t, os.WriteFile(conf, text, 0o600))
			opts := brokerOptions(t, conf)
			if clustered := opts.Cluster.Name != ""; clustered != opts.SyncAlways || clustered != (len(opts.Routes) == 3) || clustered == bytes.Equal(text, deployed) {
				t.Errorf("cluster %q of %d, sync always: %v", opts.Cluster.Name, len(opts.Routes), opts.SyncAlways)
			}
			opts.Cluster, opts.Routes = server.ClusterOpts{}, nil // the others are not there
			nc, err := setup.Connect(t.Context(), startBroker(t, opts).ClientURL(), folder, zerolog.Nop())
			must(t, err)
			defer nc.Close()
			must(t, setup.NATS(t.Context(), nc, cfg, folder))
		})
	}
}

func TestTheURLsOwnUserIsTaken(t *testing.T) {
	s := newSite(t)
	broker := startBroker(t, &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, JetStream: true, StoreDir: t.TempDir(),
		Username: "admin", Password: "sesame"})
	s.env.NATSURL = strings.Replace(broker.ClientURL(), "nats://", "nats://admin:sesame@", 1)
	must(t, s.run(t.Context()))
}

func TestRotatedKeysReachTheBroker(t *testing.T) {
	s := newSite(t)
	must(t, s.run(t.Context()))
	nc, err := setup.Connect(t.Context(), s.env.NATSURL, s.folder, zerolog.Nop())
	must(t, err)
	defer nc.Close()
	before, err := s.folder.PublicKeys()
	must(t, err)
	var log bytes.Buffer
	folder, later := s.folder.Logged(zerolog.New(&log)), time.Now().Add(s.cfg.Sealing.Rotate)
	for _, now := range []time.Time{later, later.Add(time.Hour), later.Add(time.Hour), later.Add(2 * time.Hour)} {
		must(t, setup.RotateKeys(t.Context(), nc, s.cfg, folder, now))
	}
	after, err := s.folder.PublicKeys()
	must(t, err)
	keys, err := s.jetStream(t).Stream(t.Context(), "KEYS")
	must(t, err)
	for i := range after {
		if after[i].ID == before[i].ID {
			t.Errorf("key of %s was not rotated", after[i].Recipient)
		}
		msg, err := keys.GetLastMsgForSubject(t.Context(), "keys."+after[i].Recipient)
		must(t, err)
		if !strings.Contains(string(msg.Data), after[i].ID) {
			t.Errorf("senders are told %s, want %s", msg.Data, after[i].ID)
		}
		for what, key := range map[string]string{"made": after[i].ID, "published": after[i].ID, "destroyed": before[i].ID} {
			line := fmt.Sprintf(`{"level":"info","worker":%q,"key":%q,"message":"sealing key %s"}`+"\n", after[i].Recipient, key, what)
			if strings.Count(log.String(), line) != 1 {
				t.Errorf("the log has not once %s", line)
			}
		}
	}
	if lines := strings.Count(log.String(), "\n"); lines != 3*len(after) {
		t.Errorf("%d lines about %d keys:\n%s", lines, len(after), log.String())
	}
}
