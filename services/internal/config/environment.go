package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Environment is every environment variable that Sekisho reads. Empty means not set.
type Environment struct {
	HTTPAddr       string // SEKISHO_HTTP_ADDR: the public gateway
	OpsAddr        string // SEKISHO_OPS_ADDR: console, admin API, health and metrics; never to be exposed
	SimAddr        string // SEKISHO_SIM_ADDR: the provider simulators of `up`
	NATSAddr       string // SEKISHO_NATS_ADDR: the embedded broker of `up`
	NATSURL        string // SEKISHO_NATS_URL: a broker to use instead
	PostgresURL    string // SEKISHO_POSTGRES_URL: a database to use instead of a private one
	CredentialsDir string // SEKISHO_CREDENTIALS_DIR: what `setup` writes and workers read; default <data dir>/credentials
	DataDir        string // SEKISHO_DATA_DIR: everything that `up` keeps; default .sekisho
	ConfigFile     string // SEKISHO_CONFIG: the YAML file of package config
	AdminToken     string // SEKISHO_ADMIN_TOKEN: bearer token of the admin API; default <data dir>/admin-token
}

// ReadEnvironment reads the environment through getenv, usually os.Getenv. Folders become absolute.
func ReadEnvironment(getenv func(string) string) (Environment, error) {
	e := Environment{
		HTTPAddr:       getenv("SEKISHO_HTTP_ADDR"),
		OpsAddr:        getenv("SEKISHO_OPS_ADDR"),
		SimAddr:        getenv("SEKISHO_SIM_ADDR"),
		NATSAddr:       getenv("SEKISHO_NATS_ADDR"),
		NATSURL:        getenv("SEKISHO_NATS_URL"),
		PostgresURL:    getenv("SEKISHO_POSTGRES_URL"),
		CredentialsDir: getenv("SEKISHO_CREDENTIALS_DIR"),
		DataDir:        cmp.Or(getenv("SEKISHO_DATA_DIR"), ".sekisho"),
		ConfigFile:     getenv("SEKISHO_CONFIG"),
		AdminToken:     getenv("SEKISHO_ADMIN_TOKEN"),
	}
	var err error
	if e.DataDir, err = filepath.Abs(e.DataDir); err != nil {
		return Environment{}, err
	}
	e.CredentialsDir, err = filepath.Abs(cmp.Or(e.CredentialsDir, filepath.Join(e.DataDir, "credentials")))
	return e, err
}

// ReadAdminToken is the given token, or the one that an `up` with this data dir has made; empty if there is neither.
func (e Environment) ReadAdminToken() (string, error) {
	if e.AdminToken != "" {
		return e.AdminToken, nil
	}
	data, err := os.ReadFile(filepath.Join(e.DataDir, "admin-token"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("config: admin token: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
