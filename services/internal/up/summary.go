package up

import (
	"fmt"
	"path/filepath"
	"strings"
)

// summary tells a person what to do next.
func (u *up) summary(proof demoProof) {
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
	line("  Demo accounts, with the password %s", proof.password)
	for _, d := range demo {
		line("    %-6s %-14s %s", d.name, d.phone, d.about)
	}
	line("")
	line("  Start a login with curl:")
	line("    curl -s http://%s/v1/logins -H 'Content-Type: application/json' \\", a.HTTP)
	line(`      -d '{"user":"bob","method":"password","password":"%s","app":"demo","tokens":true}'`, proof.password)
	line("")
	if proof.token != "" {
		line("  The secret of %s's token is %s. A program shows its codes, each good once:", tokenUser, proof.token)
		line("    oathtool --totp -b %s", proof.token)
		line("  or an authenticator app, from a QR code of")
		line("    otpauth://totp/Sekisho:%[1]s?secret=%[2]s&issuer=Sekisho", tokenUser, proof.token)
		line("  With curl:")
		line("    curl -s http://%s/v1/logins -H 'Content-Type: application/json' \\", a.HTTP)
		line(`      -d '{"user":"%s","method":"none","code":"'$(oathtool --totp -b %s)'","app":"demo","tokens":true}'`, tokenUser, proof.token)
		line("")
	}
	fmt.Fprint(u.Out, b.String())
}

func (u *up) adminTokenFrom() string {
	if u.Environment.AdminToken != "" {
		return "SEKISHO_ADMIN_TOKEN"
	}
	return filepath.Join(u.Environment.DataDir, "admin-token")
}
