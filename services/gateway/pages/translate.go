package pages

import (
	"cmp"
	"embed"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"golang.org/x/text/language"
)

//go:embed catalogs
var catalogs embed.FS

// The first language is the one for people who ask for none of these.
var (
	languages = []string{"en", "ja"}
	matcher   = language.NewMatcher([]language.Tag{language.English, language.Japanese})
)

// Negotiate returns the language of the pages, "en" or "ja": the override (the lang parameter or what the
// gateway remembers of it) if it is one of them, else the best match of an Accept-Language header.
func Negotiate(acceptLanguage, override string) string {
	if slices.Contains(languages, override) {
		return override
	}
	return cmp.Or(Asked(acceptLanguage), languages[0])
}

// Asked is which of our languages an Accept-Language header asks for, "" if for none: programs send "*", and mean nothing by it.
func Asked(acceptLanguage string) string {
	tags, _, _ := language.ParseAcceptLanguage(acceptLanguage) // of a broken header there are none
	if _, i, how := matcher.Match(tags...); how > language.No {
		return languages[i]
	}
	return ""
}

func otherLanguage(lang string) string {
	if lang == "ja" {
		return "en"
	}
	return "ja"
}

// A catalog holds the texts of one language by key.
type catalog map[string]string

func readCatalog(lang string) (catalog, error) {
	data, err := catalogs.ReadFile("catalogs/" + lang + ".json")
	if err != nil {
		return nil, fmt.Errorf("read catalog: %w", err)
	}
	var c catalog
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("read catalog %s: %w", lang, err)
	}
	return c, nil
}

func (c catalog) text(key string) (string, error) {
	s, ok := c[key]
	if !ok {
		return "", fmt.Errorf("no text %q", key)
	}
	return s, nil
}

// name returns a value in people's words. An unknown value is shown as it is: a newer policy may name
// factors that this gateway has no word for yet.
func (c catalog) name(kind, value string) string {
	if s, ok := c[kind+"."+value]; ok {
		return s
	}
	return value
}

func (c catalog) format(key string, t time.Time) (string, error) {
	layout, err := c.text(key)
	return t.Format(layout), err
}
