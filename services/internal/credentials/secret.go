package credentials

import (
	"fmt"
	"os"
	"strings"
)

// Secret reads a secret of an outside system, such as a provider's token, from the file that the configuration names.
// White space around it does not count.
func Secret(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("credentials: %w", err)
	}
	secret := strings.TrimSpace(string(data))
	if secret == "" {
		return "", fmt.Errorf("credentials: %s is empty", path)
	}
	return secret, nil
}
