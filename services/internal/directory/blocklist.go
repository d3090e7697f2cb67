package directory

import (
	"bufio"
	_ "embed"
	"fmt"
	"os"
	"strings"
)

// common holds passwords that guessers try first, one a line.
//
//go:embed common-passwords.txt
var common string

// A Blocklist holds passwords that nobody may choose, since guessers try them first (SP 800-63B-4 section 3.1.1.2). Passwords are
// compared whole and regardless of case.
type Blocklist map[string]struct{}

// NewBlocklist is the built-in list, and that of a file, one password a line, if one is named.
func NewBlocklist(file string) (Blocklist, error) {
	b := make(Blocklist)
	if err := b.read(bufio.NewScanner(strings.NewReader(common))); err != nil || file == "" {
		return b, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("directory: blocklist: %w", err)
	}
	defer f.Close()
	if err := b.read(bufio.NewScanner(f)); err != nil {
		return nil, fmt.Errorf("directory: blocklist: %s: %w", file, err)
	}
	return b, nil
}

func (b Blocklist) read(lines *bufio.Scanner) error {
	for lines.Scan() {
		if line := strings.TrimSuffix(lines.Text(), "\r"); line != "" {
			b[folded(line)] = struct{}{}
		}
	}
	return lines.Err()
}

// Blocks tells whether a user may not choose a password: it is on the list, or it is the user's own name.
func (b Blocklist) Blocks(password, user string) bool {
	password = folded(password)
	_, listed := b[password]
	return listed || password == folded(user)
}

func folded(password string) string { return strings.ToLower(NormalizePassword(password)) }
