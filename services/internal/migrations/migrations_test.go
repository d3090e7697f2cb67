package migrations_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sekisho/sekisho/services/internal/migrations"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestApplyByManyAtOnceAndAgain(t *testing.T) {
	urls := []string{testenv.Postgres(t), testenv.Postgres(t)} // two databases share the roles
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			if err := migrations.Apply(t.Context(), urls[i%2]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := migrations.Apply(t.Context(), urls[0]); err != nil {
		t.Error(err)
	}
}

// grants is everything that each role may do in the schemas of more than one worker: "relation: privileges", where a
// privilege without columns covers all of them. What is not listed must be refused.
var grants = map[string][]string{
	"gateway": {
		"sessions.named: SELECT",
		"sessions.sessions: SELECT UPDATE(last_seen,revoked_at,revoked_by)",
	},
	"identityverifier": {
		"directory.counters: SELECT INSERT UPDATE",
		"directory.devices: SELECT(user_id)",
		"directory.passwords: SELECT UPDATE",
		"directory.phones: SELECT(user_id)",
		"directory.tokens: SELECT(disabled,expires_at,starts_at,user_id)",
		"directory.users: SELECT",
		"directory.verdicts: SELECT INSERT UPDATE",
		"sessions.named: SELECT",
	},
	"riskassessor": nil,
	"sessionissuer": {
		"directory.accounts: SELECT UPDATE(may_log_in)",
		"sessions.sessions: SELECT INSERT UPDATE(last_seen,revoked_at,revoked_by) DELETE",
	},
	"smsdispatcher": {
		"directory.phones: SELECT(number,user_id)",
		"directory.users: SELECT(id,locale)",
	},
	"pushnotifier": {
		"directory.accounts: SELECT UPDATE(may_log_in)",
		"directory.activations: SELECT INSERT DELETE",
		"directory.devices: SELECT INSERT UPDATE DELETE",
		"directory.outbox: SELECT INSERT DELETE",
		"directory.passwords: SELECT(user_id)",
		"directory.phones: SELECT(user_id)",
		"directory.tokens: SELECT(disabled,expires_at,starts_at,user_id)",
		"directory.users: SELECT(generation,id,name) UPDATE(generation)",
		"sessions.named: SELECT",
		"sessions.sessions: SELECT UPDATE(revoked_at,revoked_by)",
	},
	"otpvalidator": {
		"directory.counters: SELECT INSERT UPDATE",
		"directory.tokens: SELECT UPDATE(drift,next,used_at,wide_until)",
		"directory.verdicts: SELECT INSERT UPDATE",
	},
	"recorder": {
		"directory.activations: SELECT(expires_at) DELETE",
		"directory.counters: SELECT(authenticator,changed_at,failures,locked_until) DELETE",
		"directory.verdicts: SELECT(created_at) DELETE",
		"sessions.sessions: SELECT(expires_at) DELETE",
	},
	"console": {
		"directory.accounts: SELECT UPDATE(may_log_in)",
		"directory.activations: SELECT INSERT DELETE",
		"directory.counters: SELECT DELETE",
		"directory.devices: SELECT(account,enrolled_at,gateway,id,kind,last_seen,name,user_id) INSERT DELETE",
		"directory.outbox: SELECT INSERT DELETE",
		"directory.passwords: SELECT(changed_at,user_id) INSERT UPDATE DELETE",
		"directory.phones: SELECT INSERT UPDATE DELETE",
		"directory.tokens: SELECT INSERT UPDATE DELETE",
		"directory.users: SELECT INSERT UPDATE DELETE",
		"sessions.named: SELECT",
		"sessions.sessions: SELECT UPDATE(revoked_at,revoked_by)",
	},
}

// owners are the workers that have a schema to themselves.
var owners = map[string]string{"sms": "smsdispatcher", "push": "pushnotifier", "risk": "riskassessor", "audit": "recorder"}

func TestGrants(t *testing.T) {
	conn := connect(t)
	if listed := slices.Sorted(maps.Keys(grants)); !slices.Equal(listed, slices.Sorted(slices.Values(migrations.Roles))) {
		t.Fatalf("roles of the table: %v, of the migrations: %v", listed, migrations.Roles)
	}
	for _, role := range migrations.Roles {
		var shared, foreign []string
		for relation, columns := range relations(t, conn) {
			line := privileges(t, conn, role, relation, columns)
			schema, _, _ := strings.Cut(relation, ".")
			switch owner := owners[schema]; {
			case line == "" || owner == role:
			case owner == "":
				shared = append(shared, relation+":"+line)
			default:
				foreign = append(foreign, relation+":"+line)
			}
		}
		slices.Sort(shared)
		if !slices.Equal(shared, grants[role]) {
			t.Errorf("%s may:\n\t%s\nwant:\n\t%s", role, strings.Join(shared, "\n\t"), strings.Join(grants[role], "\n\t"))
		}
		if len(foreign) > 0 {
			t.Errorf("%s may touch what belongs to another worker: %v", role, foreign)
		}
	}
}

// The privileges of TestGrants are what PostgreSQL says of them; these are the ones that matter most, tried out.
func TestRefused(t *testing.T) {
	conn := connect(t)
	for _, tt := range []struct{ role, statement string }{
		{"smsdispatcher", `SELECT name FROM directory.users`},
		{"smsdispatcher", `SELECT hash FROM directory.passwords`},
		{"smsdispatcher", `UPDATE directory.phones SET number = '+819000000000'`},
		{"otpvalidator", `SELECT number FROM directory.phones`},
		{"otpvalidator", `DELETE FROM directory.counters`},
		{"otpvalidator", `UPDATE directory.tokens SET secret = ''`},
		{"otpvalidator", `UPDATE directory.tokens SET user_id = NULL`},
		{"identityverifier", `SELECT secret FROM directory.tokens`},
		{"pushnotifier", `SELECT serial FROM directory.tokens`},
		{"sessionissuer", `SELECT user_id FROM directory.tokens`},
		{"identityverifier", `SELECT number FROM directory.phones`},
		{"identityverifier", `UPDATE directory.users SET locked = false`},
		{"identityverifier", `SELECT 1 FROM sessions.sessions`},
		{"sessionissuer", `SELECT name FROM directory.users`},
		{"sessionissuer", `UPDATE directory.accounts SET may_log_in = true`},
		{"sessionissuer", `UPDATE sessions.sessions SET expires_at = 'infinity'`},
		{"gateway", `SELECT name FROM directory.users`},
		{"gateway", `INSERT INTO sessions.sessions DEFAULT VALUES`},
		{"gateway", `UPDATE sessions.sessions SET expires_at = 'infinity'`},
		{"gateway", `UPDATE sessions.named SET user_name = 'x'`},
		{"console", `SELECT hash FROM directory.passwords`},
		{"console", `UPDATE directory.counters SET failures = 0`},
		{"riskassessor", `SELECT user_id FROM directory.accounts`},
		{"pushnotifier", `SELECT hash FROM directory.passwords`},
		{"pushnotifier", `SELECT number FROM directory.phones`},
		{"pushnotifier", `UPDATE sessions.sessions SET expires_at = 'infinity'`},
		{"pushnotifier", `UPDATE directory.accounts SET may_log_in = true`},
		{"console", `UPDATE directory.outbox SET source = 'recorder'`},
		{"console", `UPDATE directory.devices SET public_key = NULL`},
		{"console", `SELECT target FROM directory.devices`},
		{"identityverifier", `SELECT public_key FROM directory.devices`},
		{"recorder", `SELECT hash FROM directory.passwords`},
		{"recorder", `CREATE TABLE public.mine (a int)`},
		{"recorder", `TRUNCATE directory.verdicts`},
		{"recorder", `UPDATE audit.events SET source = ''`},
	} {
		_, err := conn.Exec(t.Context(), `SET ROLE `+tt.role)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), tt.statement); err == nil {
			t.Errorf("%s may %s", tt.role, tt.statement)
		}
	}
}

func connect(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), testenv.Migrated(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	return conn
}

// relations are the tables and views of all schemas but the system's, with their columns.
func relations(t *testing.T, conn *pgx.Conn) map[string][]string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `
		SELECT table_schema || '.' || table_name, array_agg(column_name::text ORDER BY column_name::text)
		FROM information_schema.columns WHERE table_schema NOT IN ('pg_catalog', 'information_schema') GROUP BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string][]string)
	var (
		relation string
		columns  []string
	)
	if _, err := pgx.ForEachRow(rows, []any{&relation, &columns}, func() error {
		found[relation] = slices.Clone(columns)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// privileges says what a role may do with a relation, "" for nothing: " SELECT UPDATE(a,b) DELETE".
func privileges(t *testing.T, conn *pgx.Conn, role, relation string, columns []string) string {
	t.Helper()
	ask := func(function string, args ...any) (may bool) {
		t.Helper()
		marks := []string{"$1", "$2", "$3", "$4"}[:len(args)]
		query := fmt.Sprintf("SELECT %s(%s)", function, strings.Join(marks, ", "))
		if err := conn.QueryRow(t.Context(), query, args...).Scan(&may); err != nil {
			t.Fatal(err)
		}
		return may
	}
	schema, _, _ := strings.Cut(relation, ".")
	if !ask("has_schema_privilege", role, schema, "USAGE") {
		return ""
	}
	line := ""
	for _, privilege := range []string{"SELECT", "INSERT", "UPDATE"} {
		var may []string
		for _, column := range columns {
			if ask("has_column_privilege", role, relation, column, privilege) {
				may = append(may, column)
			}
		}
		switch len(may) {
		case 0:
		case len(columns):
			line += " " + privilege
		default:
			line += " " + privilege + "(" + strings.Join(may, ",") + ")"
		}
	}
	for _, privilege := range []string{"DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"} {
		if ask("has_table_privilege", role, relation, privilege) {
			line += " " + privilege
		}
	}
	return line
}
