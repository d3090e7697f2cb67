package testenv

import (
	"context"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// starts is how often a Chromium is started before the test fails: on a machine that is short of everything it sometimes
// dies while it starts, which says nothing about the pages.
const starts = 3

// Chromium starts a browser with a fresh profile, as small as a phone's, until the test ends. Actions run on the context.
func Chromium(t testing.TB, language string) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, chromedp.DisableGPU, // tests may run as root, for which Chromium has no sandbox
		chromedp.Flag("disable-quic", true), chromedp.Flag("lang", language), chromedp.Flag("accept-lang", language),
		chromedp.WindowSize(390, 844))
	for try := 1; ; try++ {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		ctx, stop := chromedp.NewExecAllocator(ctx, options...)
		ctx, leave := chromedp.NewContext(ctx)
		end := func() { leave(); stop(); cancel() }
		err := chromedp.Do(ctx)
		if err == nil {
			t.Cleanup(end)
			return ctx
		}
		end()
		if try == starts {
			t.Fatalf("Chromium does not start (Debian: apt-get install chromium): %v", err)
		}
	}
}
