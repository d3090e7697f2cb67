package pages

import (
	"maps"
	"regexp"
	"slices"
	"testing"
)

func TestCatalogsHaveTheSameKeys(t *testing.T) {
	want := slices.Sorted(maps.Keys(mustCatalog(t, languages[0])))
	for _, lang := range languages {
		texts := mustCatalog(t, lang)
		if got := slices.Sorted(maps.Keys(texts)); !slices.Equal(got, want) {
			t.Errorf("%s and %s differ in keys:\n%v\n%v", languages[0], lang, want, got)
		}
		for key, text := range texts {
			if text == "" {
				t.Errorf("%s: %s is empty", lang, key)
			}
		}
	}
}

// Every page in every state, drawn with the keys in place of the texts, shows each key of the catalogs.
func TestNoTextIsUnused(t *testing.T) {
	marked := make(catalog)
	for key := range mustCatalog(t, "en") {
		marked[key] = "⟦" + key + "⟧"
	}
	p := newPages(t)
	if err := p.parse("en", marked); err != nil {
		t.Fatal(err)
	}
	unused := maps.Clone(marked)
	for _, page := range everyPage(plain) {
		for _, m := range regexp.MustCompile(`⟦(.*?)⟧`).FindAllStringSubmatch(render(t, p, "en", page), -1) {
			delete(unused, m[1])
		}
	}
	for key := range unused {
		t.Errorf("no page shows %q", key)
	}
}

func mustCatalog(t *testing.T, lang string) catalog {
	t.Helper()
	c, err := readCatalog(lang)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAsked(t *testing.T) {
	for header, want := range map[string]string{
		"": "", "*": "", "fr": "", "fr,*;q=0.1": "", "ja;q=zero,,;": "", "ja": "ja", "ja-JP,en;q=0.5": "ja", "fr,en;q=0.3": "en", "en-GB,*;q=0.1": "en",
	} {
		if got := Asked(header); got != want {
			t.Errorf("Asked(%q) = %q, want %q", header, got, want)
		}
	}
}

func TestNegotiate(t *testing.T) {
	for _, c := range []struct{ header, override, want string }{
		{"", "", "en"},
		{"ja", "", "ja"},
		{"ja-JP,en;q=0.5", "", "ja"},
		{"en-GB,ja;q=0.9", "", "en"},
		{"fr,ja;q=0.5", "", "ja"},
		{"fr", "", "en"},
		{"*", "", "en"},
		{"ja;q=zero,,;", "", "en"},
		{"en", "ja", "ja"},
		{"ja", "en", "en"},
		{"ja", "fr", "ja"},
		{"ja", "../en", "ja"},
	} {
		if got := Negotiate(c.header, c.override); got != c.want {
			t.Errorf("Negotiate(%q, %q) = %q, want %q", c.header, c.override, got, c.want)
		}
	}
}
