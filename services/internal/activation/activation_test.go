package activation

import (
	"encoding/xml"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"rsc.io/qr"
)

func TestURL(t *testing.T) {
	if got := URL("https://login.example.com", "CODE"); got != "https://login.example.com/authenticator#CODE" {
		t.Error(got)
	}
}

// The SVG has the black modules of the code where the code has them, inside a quiet zone, and nowhere else.
func TestQR(t *testing.T) {
	text := URL("https://login.example.com", strings.Repeat("A", 26))
	svg, err := QR(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal([]byte(svg), new(struct{})); err != nil {
		t.Fatal(err)
	}
	want, err := qr.Encode(text, qr.M)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(svg, fmt.Sprintf(`viewBox="0 0 %d %[1]d"`, want.Size+8)) {
		t.Errorf("size: %.120s", svg)
	}
	black := make(map[[2]int]bool)
	for _, run := range regexp.MustCompile(`M(\d+) (\d+)h(\d+)v1h-(\d+)z`).FindAllStringSubmatch(svg, -1) {
		x, _ := strconv.Atoi(run[1])
		y, _ := strconv.Atoi(run[2])
		width, _ := strconv.Atoi(run[3])
		if run[3] != run[4] {
			t.Fatalf("not a rectangle: %s", run[0])
		}
		for i := range width {
			black[[2]int{x + i - 4, y - 4}] = true
		}
	}
	for y := -4; y < want.Size+4; y++ {
		for x := -4; x < want.Size+4; x++ {
			if black[[2]int{x, y}] != want.Black(x, y) {
				t.Fatalf("module %d,%d: %v, want %v", x, y, black[[2]int{x, y}], want.Black(x, y))
			}
		}
	}
	if _, err := QR(strings.Repeat("x", 5000)); err == nil {
		t.Error("a text that no QR code can hold")
	}
}
