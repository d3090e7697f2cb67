package authenticator

import (
	"testing"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/serviceworker"
	"github.com/chromedp/chromedp"
)

// registration is what the browser calls the app's service worker.
func (s *screen) registration() serviceworker.RegistrationID {
	s.t.Helper()
	found := make(chan serviceworker.RegistrationID, 1)
	err := chromedp.Listen(s.ctx, func(event any) {
		if updated, ok := event.(*serviceworker.EventWorkerRegistrationUpdated); ok {
			for _, r := range updated.Registrations {
				if r.ScopeURL == s.far.URL+scope {
					select {
					case found <- r.RegistrationID:
					default:
					}
				}
			}
		}
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := chromedp.Call(s.ctx, serviceworker.Enable, cdp.Empty{}); err != nil {
		s.t.Fatal(err)
	}
	select {
	case id := <-found:
		return id
	case <-s.ctx.Done():
		s.t.Fatal("no service worker")
		return ""
	}
}

// notified is the text of the one notification that there is.
func (s *screen) notified() string {
	s.t.Helper()
	text, err := chromedp.Run(s.ctx, chromedp.Evaluate[string](`(async () => {
		const registration = await navigator.serviceWorker.getRegistration("/authenticator");
		for (;;) {
			const all = await registration.getNotifications();
			if (all.length > 0) return all.map(({ title, body }) => title + "\n" + body).join("\n");
			await new Promise((resolve) => setTimeout(resolve, 50));
		}
	})()`, chromedp.EvalAwaitPromise))
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

// A push while the page is closed: the worker asks what it is about, proving the key, and tells nothing of it on a screen that
// may be locked.
func TestPushWhileThePageIsClosed(t *testing.T) {
	f, w := newFar(t), words(t, "ja")
	f.vapid = vapidKey
	s := activated(t, f, "ja")
	s.permit(browser.PermissionSettingGranted)
	s.workerReady()
	id := s.registration()
	deliver := func() {
		t.Helper()
		s.do(chromedp.Navigate(f.URL + "/assets/icon.svg")) // no page of the app
		if _, err := chromedp.Call(s.ctx, serviceworker.DeliverPushMessage, serviceworker.DeliverPushMessageParams{Origin: f.URL, RegistrationID: id}); err != nil {
			t.Fatal(err)
		}
	}
	deliver()
	if got, want := s.notified(), w("push.over")+"\n"+w("push.over.detail"); got != want {
		t.Errorf("nothing waits: %q, want %q", got, want)
	}
	f.ask(nil)
	deliver()
	want := w("push.prompt") + "\n" + w("push.prompt.detail")
	for got := s.notified(); got != want; got = s.notified() { // the old one goes when the new one comes
		if s.ctx.Err() != nil {
			t.Fatalf("a prompt waits: %q, want %q", got, want)
		}
	}
}
