package document

import (
	"slices"
	"testing"
)

const text = `
paths:
  /b/{id}: {get: {answer: {$ref: "#/parts/one", why: because}, text: "a: \"quoted\" \u2022 word\nand a line"}}
  /a: &shared {get: {size: 7, big: true, list: [x, "y"]}}
  /c: *shared
parts:
  one: {$ref: "#/parts/a~1b"}
  a/b: {deep: {value: here}}
  loop: {$ref: "#/parts/loop"}
  other: {$ref: "./other.json"}
`

func TestNode(t *testing.T) {
	doc, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for path := range doc.Get("paths").Each() {
		paths = append(paths, path)
	}
	if !slices.Equal(paths, []string{"/b/{id}", "/a", "/c"}) {
		t.Errorf("the order was lost: %q", paths)
	}
	found := doc.Get("paths", "/b/{id}", "get", "answer", "deep", "value")
	if found.Text() != "here" || found.At != "/parts/a~1b/deep/value" {
		t.Errorf("through two references: %q at %s", found.Text(), found.At)
	}
	if ref := doc.Get("paths", "/b/{id}", "get", "answer"); ref.At != "/paths/~1b~1{id}/get/answer" || ref.Target().At != "/parts/a~1b" {
		t.Errorf("a reference was not left as it stands: %s, to %s", ref.At, ref.Target().At)
	}
	if own := doc.Get("paths", "/b/{id}", "get", "answer").Own("why"); own.Text() != "because" {
		t.Errorf("beside a reference: %q", own.Text())
	}
	if list := doc.Get("paths", "/c", "get", "list"); !slices.Equal(list.Texts(), []string{"x", "y"}) || list.Get("1").Text() != "y" {
		t.Errorf("%q", list.Texts())
	}
	if !doc.Get("paths", "/a", "get", "big").True() || doc.Get("paths", "/a", "get", "size").True() {
		t.Error("True")
	}
	for _, missing := range [][]string{{"nothing", "at", "all"}, {"paths", "/c", "get", "list", "2"}, {"parts", "loop", "x"}, {"parts", "other", "x"}} {
		if doc.Get(missing...).There() {
			t.Errorf("there is something at %q", missing)
		}
	}
}

func TestJSON(t *testing.T) {
	doc, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	got, err := doc.Get("paths", "/b/{id}", "get", "text").JSON()
	if want := `"a: \"quoted\" • word\nand a line"`; err != nil || string(got) != want {
		t.Errorf("got %s, want %s: %v", got, want, err)
	}
	got, err = doc.Get("paths", "/c").JSON()
	if want := "{\n  \"get\": {\n    \"size\": 7,\n    \"big\": true,\n    \"list\": [\n      \"x\",\n      \"y\"\n    ]\n  }\n}"; err != nil || string(got) != want {
		t.Errorf("got %s, want %s: %v", got, want, err)
	}
}

func TestParseRefuses(t *testing.T) {
	if _, err := Parse([]byte("a: [")); err == nil {
		t.Error("half a document was taken")
	}
}
