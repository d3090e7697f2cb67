package up

import (
	"fmt"
	"path/filepath"
	"strings"
)

// summary tells a person what to do next.
func (u *up) summary(password string) {
	a := u.addresses
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("")
	line("Sekisho is up. Ctrl-C stops it.")
	line("")
	line("  Demo app    http://%s/", a.HTTP)
	line("  Documents   http://%s/docs               every operation and every event", a.HTTP)
	line("  Phones      http://%s/sim/sms/messages   what the simulated phones received; pushes: /sim/push/messages", a.Sim)
	line("  Admin API   http://%s/admin/v1/users     bearer token in %s", a.Ops, u.adminTokenFrom())
	line("  Operations  http://%s/readyz  and  /metrics", a.Ops)
	line("  NATS        nats://%s   nkey seeds in %s", a.NATS, u.folder.Dir())
	line("  PostgreSQL  its URL is in %s", addressesFile(u.Environment.DataDir))
	line("")
	line("  Demo accounts, all with the password %s", password)
	for _, d := range demo {
		line("    %-6s %-14s %s", d.name, d.phone, d.about)
	}
	line("")
	line("  Start a login with curl:")
	line("    curl -s http://%s/v1/logins -H 'Content-Type: application/json' \\", a.HTTP)
	line(`      -d '{"user":"bob","method":"password","password":"%s","app":"demo","tokens":true}'`, password)
	line("")
	fmt.Fprint(u.Out, b.String())
}

func (u *up) adminTokenFrom() string {
	if u.Environment.AdminToken != "" {
		return "SEKISHO_ADMIN_TOKEN"
	}
	return filepath.Join(u.Environment.DataDir, "admin-token")
}
