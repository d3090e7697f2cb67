package up

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/golang-jwt/jwt/v5"
)

const serviceAccountFile = "fcm.json"

// serviceAccount writes the file of the account that may push for the simulated Firebase project, and gives the public half of its
// key. The key is kept in that file; where tokens are given out changes with the simulators' address.
func (u *up) serviceAccount(tokenURL string) (*rsa.PublicKey, error) {
	var file struct {
		Type     string `json:"type"`
		Email    string `json:"client_email"`
		KeyID    string `json:"private_key_id"`
		Key      string `json:"private_key"`
		TokenURL string `json:"token_uri"`
	}
	path := filepath.Join(u.folder.Dir(), serviceAccountFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		file.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	} else if err != nil {
		return nil, err
	} else if json.Unmarshal(data, &file) != nil {
		return nil, fmt.Errorf("%s is no service account: remove it", path)
	}
	key, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(file.Key))
	if err != nil {
		return nil, fmt.Errorf("%s has no RSA key: remove it", path)
	}
	file.Type, file.Email, file.KeyID, file.TokenURL = "service_account", fcmAccount, "simulated", tokenURL
	if data, err = json.Marshal(file); err != nil {
		return nil, err
	}
	return &key.PublicKey, u.folder.Write(serviceAccountFile, data)
}
