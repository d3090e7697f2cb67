package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
)

// A gateway in JavaScript logs alice in, with nothing of ours on its side of the bus, and writes its events in either mode
// of CloudEvents.
func TestNodeGateway(t *testing.T) {
	dir := nodeExample(t)
	s := start(t, cheap)
	for mode, header := range map[string]string{"structured": "content-type", "binary": "ce-id"} {
		t.Run(mode, func(t *testing.T) {
			out := command(t, dir, "node", "login.js", s.dir, mode)
			if !strings.Contains(out, "\ngranted") || !strings.Contains(out, "amr pwd,sms, acr 2fa") {
				t.Fatalf("not granted:\n%s", out)
			}
			id, _, _ := strings.Cut(strings.TrimPrefix(out, "requested "), "\n")
			for _, subject := range []string{"login.requested.example." + id, "login.answered.example." + id + ".1"} {
				if stored := s.stored(t, subject); stored.Get(header) == "" {
					t.Errorf("%s is not in %s mode: %v", subject, mode, stored)
				}
			}
		})
	}
	t.Run("its own tests", func(t *testing.T) {
		t.Setenv("SEKISHO_DATA_DIR", s.dir)
		files, err := filepath.Glob(filepath.Join(dir, "*.test.js"))
		if err != nil || len(files) == 0 {
			t.Fatalf("tests: %v, %v", files, err)
		}
		for _, file := range files { // one process each: `node --test` would leave its children behind when it is killed
			command(t, dir, "node", filepath.Base(file))
		}
	})
}

// The gateway in Go, with somebody who types a wrong code and then the right one.
func TestGoGateway(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "gateway")
	command(t, "../../tools", "go", "build", "-o", binary, "./examples/go")
	s := start(t, cheap)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "nats://"+s.NATS, filepath.Join(s.dir, "credentials", "example.nk"), "alice")
	cmd.Env = append(os.Environ(), "PASSWORD="+s.Password)
	keys, err := cmd.StdinPipe()
	must(t, err)
	screen, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())

	read := bufio.NewReader(screen)
	prompt := func(want string) {
		t.Helper()
		if shown, err := read.ReadString(':'); err != nil || !strings.HasSuffix(shown, want) {
			t.Fatalf("it shows %q, %v; want %q", shown, err, want)
		}
	}
	prompt("1234, 5 attempts left:")
	code := s.newestCode("09012341234")
	io.WriteString(keys, wrong(code)+"\n")
	prompt("1234, 4 attempts left:")
	io.WriteString(keys, code+"\n")
	rest, err := io.ReadAll(read)
	must(t, err)
	if err := cmd.Wait(); err != nil || strings.TrimSpace(string(rest)) != "granted" {
		t.Errorf("it ends with %q, %v", rest, err)
	}
}

// The page about gateways shows an event that is one, with a value of the test vectors in it, and its links lead somewhere.
func TestGatewayPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/gateway.md")
	must(t, err)
	_, after, _ := strings.Cut(string(page), "```json\n")
	shown, _, _ := strings.Cut(after, "```")
	ce, err := events.ReadMessage(nats.Header{"Content-Type": {"application/cloudevents+json"}}, []byte(shown))
	must(t, err)
	e, err := events.FromCloudEvent(ce)
	must(t, err)
	vectors, err := os.ReadFile("../../schemas/examples/sealing.json")
	must(t, err)
	if box := base64.StdEncoding.EncodeToString(e.Data.(*events.Requested).Identity.Box); !strings.Contains(string(vectors), box) {
		t.Error("the sealed value of the page is not among the test vectors")
	}
}

// Links lead to files that are there, and to headings that are in them.
func TestLinks(t *testing.T) {
	var pages []string
	for _, pattern := range []string{"*.md", "*/*.md", "*/*/*.md", "*/*/*/*.md"} {
		found, err := filepath.Glob(filepath.Join("../..", pattern))
		must(t, err)
		pages = append(pages, found...)
	}
	if len(pages) < 6 {
		t.Errorf("pages %q", pages)
	}
	link := regexp.MustCompile(`\]\(([^):]+)\)`)
	for _, page := range pages {
		if strings.Contains(page, "node_modules") {
			continue
		}
		text, err := os.ReadFile(page)
		must(t, err)
		for _, found := range link.FindAllStringSubmatch(string(text), -1) {
			file, heading, _ := strings.Cut(found[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", page, err)
			} else if heading != "" && !slices.Contains(headings(t, target), heading) {
				t.Errorf("%s: %s has no heading %q", page, target, heading)
			}
		}
	}
}

// headings are those of a page, as Markdown names them in links.
func headings(t *testing.T, page string) (names []string) {
	t.Helper()
	text, err := os.ReadFile(page)
	must(t, err)
	for _, found := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(string(text), -1) {
		name := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(found[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

// The README names the tests that show what it promises: each is in the file that it leads to.
func TestPromisesHaveTheirTests(t *testing.T) {
	page, err := os.ReadFile("../../README.md")
	must(t, err)
	links := regexp.MustCompile(`\[((?:Test\w+(?:, )?)+)\]\(([^)]+_test\.go)\)`).FindAllStringSubmatch(string(page), -1)
	if len(links) < 20 {
		t.Errorf("%d links to tests", len(links))
	}
	for _, link := range links {
		file, err := os.ReadFile(filepath.Join("../..", link[2]))
		must(t, err)
		for _, name := range strings.Split(link[1], ", ") {
			if !strings.Contains(string(file), "\nfunc "+name+"(") {
				t.Errorf("%s has no %s", link[2], name)
			}
		}
	}
}

// nodeExample is the folder of the gateway in JavaScript, with the packages that its lock file names.
func nodeExample(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is missing: run make packages, or install Node.js 20 or later", program)
		}
	}
	const dir = "../../tools/examples/node"
	installed, err := os.Stat(filepath.Join(dir, "node_modules", ".package-lock.json"))
	locked, lockErr := os.Stat(filepath.Join(dir, "package-lock.json"))
	must(t, lockErr)
	if err != nil || installed.ModTime().Before(locked.ModTime()) {
		command(t, dir, "npm", "ci", "--no-progress")
	}
	return dir
}

// command runs a program in a folder and gives what it prints; a program that fails fails the test.
func command(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, out, complaints.String())
	}
	return string(out)
}

// stored gives the headers of the message that LOGIN has under a subject.
func (s *system) stored(t *testing.T, subject string) nats.Header {
	t.Helper()
	seed, err := os.ReadFile(filepath.Join(s.dir, "credentials", bus.UserViewer+".nk"))
	must(t, err)
	nc, err := bus.Dial("nats://"+s.NATS, bus.UserViewer, seed, zerolog.Nop())
	must(t, err)
	defer nc.Close()
	msg, err := nc.Request("$JS.API.DIRECT.GET.LOGIN."+subject, nil, patience)
	must(t, err)
	return msg.Header
}
