package policy

import "sync/atomic"

// A Store holds the policy in force. It is safe for concurrent use.
type Store struct {
	path    string
	current atomic.Pointer[Policy]
}

// Open loads a policy file; an empty path gives the built-in policy.
func Open(path string) (*Store, error) {
	s := &Store{path: path}
	return s, s.Reload()
}

// Policy is the policy in force.
func (s *Store) Policy() *Policy { return s.current.Load() }

// Reload reads the file again. A bad file changes nothing: the policy in force stays, and the error says what is wrong where.
func (s *Store) Reload() error {
	fresh, err := Load(s.path)
	if err != nil {
		return err
	}
	s.current.Store(fresh)
	return nil
}
