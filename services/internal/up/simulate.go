package up

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/sekisho/sekisho/services/simulators"
)

// Accounts at the simulators. Their secrets are random per data dir.
const (
	karadenTenant  = "demo"
	karadenService = 1
	twilioAccount  = "ACdemo"
	twilioFrom     = "+15005550006"
	fcmProject     = "demo"
	fcmAccount     = "push@demo.example"
	vapidSubject   = "mailto:push@demo.example"
)

// startSimulators serves the providers' far ends, and has them used for every kind of provider that the configuration does not name.
// It writes that into the credentials folder too, for workers that are started alone.
func (u *up) startSimulators(fail func(error)) (stop func(), err error) {
	var secrets [4]string
	files := [4]string{"karaden.token", "twilio.token", "omotion.signature", "mamoru.token"}
	for i, name := range files {
		// In the credentials folder, where workers that are started alone find it.
		if secrets[i], err = keptSecret(filepath.Join(u.folder.Dir(), name), rand.Text); err != nil {
			return nil, err
		}
	}
	base := "http://" + u.addresses.Sim
	firebase, err := u.serviceAccount(base + "/fcm/token")
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(u.addresses.Sim)
	if err != nil {
		return nil, err
	}
	providers, err := yaml.Marshal(map[string]any{
		"sms": map[string]any{"providers": []map[string]any{
			{"name": "karaden", "kind": "karaden", "url": base + "/karaden/api", "account": karadenTenant, "token_file": files[0], "service_id": karadenService},
			{"name": "twilio", "kind": "twilio", "url": base + "/twilio", "account": twilioAccount, "token_file": files[1], "from": twilioFrom},
		}},
		"risk": map[string]any{"url": base + "/omotion", "signature_file": files[2]},
		"push": map[string]any{
			"webpush":       map[string]any{"subject": vapidSubject},
			"webpush_hosts": []string{u.addresses.Sim, "localhost:" + port}, // beside those of real browsers
			"fcm":           map[string]any{"url": base + "/fcm", "project": fcmProject, "key_file": serviceAccountFile},
			"mamoru":        map[string]any{"url": base + "/mamoru", "approve_url": base + "/mamoru/approve", "token_file": files[3]},
		},
	})
	if err != nil {
		return nil, err
	}
	if err := u.folder.Write(filepath.Base(u.folder.Providers()), providers); err != nil {
		return nil, err
	}
	if err := u.Config.FillProviders(u.folder.Providers()); err != nil {
		return nil, err
	}

	sim := simulators.New(simulators.Config{
		KaradenTenant: karadenTenant, KaradenToken: secrets[0],
		TwilioAccount: twilioAccount, TwilioToken: secrets[1],
		OMotionSignature: secrets[2],
		FCMProject:       fcmProject, FCMEmail: fcmAccount, FCMKey: firebase,
		MamoruToken: secrets[3],
		RiskReview:  []string{"alice"},
	})
	s := &http.Server{
		Handler:           sim,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      2 * time.Minute, // longer than any caller waits, since a fault may let it wait
		IdleTimeout:       2 * time.Minute,
	}
	s.RegisterOnShutdown(sim.Close)
	go func() {
		if err := s.Serve(u.sim); !errors.Is(err, http.ErrServerClosed) {
			fail(err)
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), u.Config.Shutdown.Grace)
		defer cancel()
		if s.Shutdown(ctx) != nil {
			s.Close()
		}
	}, nil
}
