// Package postgres runs a private PostgreSQL server from the binaries on this machine: it makes
// the cluster on first use, starts the server on loopback, recovers what an earlier run left
// behind and stops the server with its owner.
//
// A folder given as Config.Dir holds
//
//	data/        the cluster
//	data.new.*   a cluster in the making; a later start removes what is left of one
//	server.log   what the server says, without statements and values
//
// The folder belongs to this process, only data/ belongs to the server's user: PostgreSQL refuses
// to run as root, and nothing that root opens or renames may be in the hands of another user.
package postgres

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"
)

const (
	superuser = "postgres"
	database  = "sekisho"
)

// Config says where the server lives. Only Dir has no usable zero.
type Config struct {
	// Dir is the folder of the server. As root it may become a symbolic link: see Start.
	Dir string
	// PasswordFile keeps the superuser's password, made on first use with mode 0600.
	// Default: Dir + ".password". Without it an existing cluster cannot be opened.
	PasswordFile string
	// Addr is where the server listens: a loopback address and a port. Port 0 picks a free
	// one at each start. Default: 127.0.0.1:0.
	Addr string
	// Fast gives up durability for speed: a crash of the machine loses the cluster. For tests.
	Fast bool
	Log  zerolog.Logger
}

// Server is a running PostgreSQL server. Its owner calls Stop in any case, also when Done told
// that the server ended by itself: until then the folder stays locked.
type Server struct {
	url     string
	local   string
	process *process
	lock    *os.File
}

// Start returns once the server answers and has the database sekisho, or fails when ctx ends.
// A new cluster takes about two seconds, and recovery after a crash as long as it takes:
// give ctx a deadline to match.
//
// As root the server runs as the user that owns the cluster: postgres if there is one when it is
// made, else nobody. If that user cannot enter Dir (a checkout below /root), the cluster lives in
// /var/lib/sekisho, or in the system's folder for temporary files if that cannot be written, and
// Dir is a symbolic link to it. Start also removes the clusters there whose Dir was deleted.
//
// A server that an earlier process left running on Dir is stopped first. Two processes cannot
// have the same Dir.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	started := time.Now()
	bins, err := find(os.Getenv("PATH"), installFolders)
	if err != nil {
		return nil, err
	}
	host, port, err := parseAddr(cfg.Addr)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("postgres: folder: %w", err)
	}
	runAs, err := serverUser(dir)
	if err != nil {
		return nil, err
	}
	home, err := place(dir, runAs, shelterBases())
	if err != nil {
		return nil, err
	}
	if runAs != nil { // after place, which notes that a data dir was moved
		for _, base := range shelterBases() {
			if err := pruneShelters(base); err != nil {
				cfg.Log.Warn().Err(err).Msg("clusters of deleted data dirs could not be removed")
			}
		}
	}
	lock, err := lockHome(ctx, home)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unlockFolder(lock)
		}
	}()

	c := &cluster{home: home, runAs: runAs, fast: cfg.Fast, log: cfg.Log}
	if c.bin, err = pick(ctx, bins, c.data()); err != nil {
		return nil, err
	}
	if err := c.rotateLog(); err != nil {
		return nil, err
	}
	passwordFile := cfg.PasswordFile
	if passwordFile == "" {
		passwordFile = dir + ".password"
	}
	password, err := c.open(ctx, passwordFile)
	if err != nil {
		return nil, err
	}
	if err := c.stopOrphan(ctx); err != nil {
		return nil, err
	}
	if err := c.removeSockets(); err != nil {
		return nil, err
	}
	p, addr, err := c.launch(ctx, host, port)
	if err != nil {
		return nil, err
	}
	at := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(superuser, password),
		Host:     addr,
		Path:     "/" + database,
		RawQuery: "sslmode=disable", // loopback only, and a private server has no certificate
	}
	s := &Server{url: at.String(), process: p, lock: lock}
	if s.local = s.url; c.sockets() != "" {
		_, port, _ := net.SplitHostPort(addr)
		at.Host, at.RawQuery = "", url.Values{"host": {c.sockets()}, "port": {port}}.Encode()
		s.local = at.String()
	}
	if err := createDatabase(ctx, s.url); err != nil {
		p.signal(syscall.SIGQUIT)
		<-p.done
		return nil, err
	}
	cfg.Log.Debug().Str("addr", addr).Dur("duration", time.Since(started)).Msg("postgres is ready")
	return s, nil
}

// URL is the superuser's URL of the database sekisho. It holds the password.
func (s *Server) URL() string { return s.url }

// LocalURL is URL by way of the server's Unix socket, which costs a statement less than TCP does. Only the server's user and root can
// go there. It is URL itself where the folder's path is too long for a socket.
func (s *Server) LocalURL() string { return s.local }

// Done is closed when the server has ended, by Stop or by itself.
func (s *Server) Done() <-chan struct{} { return s.process.done }

// Stop closes all connections and ends the server. When ctx ends first, the server is made to
// quit without a checkpoint (the next start recovers) and Stop returns the error of ctx. If the
// server had ended by itself, Stop returns how.
func (s *Server) Stop(ctx context.Context) error {
	defer unlockFolder(s.lock)
	s.process.signal(syscall.SIGINT)
	select {
	case <-s.process.done:
		if s.process.err != nil {
			return fmt.Errorf("postgres: server ended: %w", s.process.err)
		}
		return nil
	case <-ctx.Done():
		s.process.signal(syscall.SIGQUIT) // PostgreSQL itself kills what is left after 5 s
		<-s.process.done
		return fmt.Errorf("postgres: stopped without a checkpoint: %w", ctx.Err())
	}
}

// parseAddr accepts loopback only: a private server is nobody else's business.
func parseAddr(addr string) (host string, port int, err error) {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("postgres: address: %w", err)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return "", 0, fmt.Errorf("postgres: address %s: not a loopback address", addr)
	}
	number, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("postgres: address %s: port: %w", addr, err)
	}
	return host, int(number), nil
}

// createDatabase connects to the server for the first time and makes the database if need be.
// It goes by the maintenance database, since the other may not exist yet.
func createDatabase(ctx context.Context, serverURL string) error {
	config, err := pgx.ParseConfig(serverURL)
	if err != nil {
		return fmt.Errorf("postgres: parse the server's URL: %w", err)
	}
	config.Database = "postgres"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("postgres: connect to the new server: %w", err)
	}
	defer conn.Close(ctx)
	var exists bool
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", database).Scan(&exists)
	if err != nil {
		return fmt.Errorf("postgres: look for database %s: %w", database, err)
	}
	if exists {
		return nil
	}
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+database); err != nil {
		return fmt.Errorf("postgres: create database %s: %w", database, err)
	}
	return nil
}
