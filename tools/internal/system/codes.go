package system

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sekisho/sekisho/events"
)

// Codes derives the codes of text messages from the key in the credentials folder, as smsdispatcher and otpvalidator do: reading
// them from a simulated phone would be measured too.
type Codes struct{ key []byte }

// Codes reads the key.
func (s *System) Codes() (*Codes, error) {
	text, err := os.ReadFile(filepath.Join(s.Dir, "credentials", "keys", "code.key"))
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("code.key: %w", err)
	}
	return &Codes{key}, nil
}

// Code is the code of a round: HMAC-SHA-256 under dynamic truncation (RFC 4226 section 5.3).
func (c *Codes) Code(login events.Login, round int) string {
	mac := hmac.New(sha256.New, c.key)
	mac.Write([]byte("sekisho text code v1\x00" + login.Gateway + "\x00" + login.ID + "\x00" + strconv.Itoa(round)))
	sum := mac.Sum(nil)
	number := binary.BigEndian.Uint32(sum[sum[len(sum)-1]&0x0f:]) & 0x7fffffff
	return fmt.Sprintf("%06d", number%1_000_000)
}
