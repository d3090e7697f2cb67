// Package activation is how a phone is invited: the URL that it opens, and the QR code of that.
package activation

import (
	"fmt"
	"strings"

	"rsc.io/qr"
)

// URL is what the phone opens. base is the origin of the gateway. The code is in the fragment, which a browser keeps to
// itself, so it is in no log and in no Referer.
func URL(base, code string) string { return base + "/authenticator#" + code }

// quiet is the white border of a QR code, in modules (ISO/IEC 18004 section 5.3.8).
const quiet = 4

// QR is the QR code of a text as an SVG document without styles and scripts, so that any content security policy lets it show.
func QR(text string) (svg string, err error) {
	code, err := qr.Encode(text, qr.M) // M bears 15 % of damage; a screen has little, and a smaller code scans better
	if err != nil {
		return "", fmt.Errorf("activation: QR code: %w", err)
	}
	var path strings.Builder
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			width := 0
			for code.Black(x+width, y) { // outside of the code nothing is black
				width++
			}
			if width > 0 {
				fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", x+quiet, y+quiet, width, width)
				x += width
			}
		}
	}
	size := code.Size + 2*quiet
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" shape-rendering="crispEdges">`+
		`<rect width="%d" height="%d" fill="#fff"/><path d="%s" fill="#000"/></svg>`, size, size, size, size, path.String()), nil
}
