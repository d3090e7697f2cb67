package directory

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBlocklist(t *testing.T) {
	file := filepath.Join(t.TempDir(), "more.txt")
	if err := os.WriteFile(file, []byte("Tr0ubador&3\r\n\npa\u0301sswort genug\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	builtIn, err := NewBlocklist("")
	if err != nil {
		t.Fatal(err)
	}
	more, err := NewBlocklist(file)
	if err != nil {
		t.Fatal(err)
	}
	for password, want := range map[string]struct{ builtIn, more bool }{
		"password123":         {true, true},
		"PassWord123":         {true, true},
		"password123x":        {},
		"tr0ubador&3":         {false, true},
		"P\u00e1sswort Genug": {false, true},
		"Alice.Liddell":       {true, true}, // the user's own name
		"":                    {},
	} {
		if got := builtIn.Blocks(password, "alice.liddell"); got != want.builtIn {
			t.Errorf("built-in: %q: %v", password, got)
		}
		if got := more.Blocks(password, "alice.liddell"); got != want.more {
			t.Errorf("with a file: %q: %v", password, got)
		}
	}
	if _, err := NewBlocklist(file + ".no"); err == nil || !strings.Contains(err.Error(), "more.txt.no") {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := os.WriteFile(file, []byte(strings.Repeat("x", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewBlocklist(file); err == nil || !strings.Contains(err.Error(), "more.txt") {
		t.Errorf("a line without end: %v", err)
	}
}
