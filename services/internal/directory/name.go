package directory

import (
	"errors"

	"golang.org/x/text/secure/precis"
)

// ErrName says that a text can not be a user name.
var ErrName = errors.New("directory: not a user name")

// maxName bounds a user name, in bytes of its canonical form.
const maxName = 128

// CanonicalName is the form in which user names are stored and compared: the PRECIS profile UsernameCaseMapped (RFC 8265
// section 3.3), so that full-width letters, capitals and composed letters of one name all mean the same user.
func CanonicalName(name string) (string, error) {
	if name == "" || len(name) > 4*maxName { // mapping shrinks a name to a third at most
		return "", ErrName
	}
	for range 4 { // RFC 8264 section 7: applied again until stable, at most three times more
		canonical, err := precis.UsernameCaseMapped.String(name)
		if err != nil || len(canonical) > maxName {
			return "", ErrName
		}
		if canonical == name {
			if name == "." || name == ".." { // clients take these out of a URL's path (RFC 3986 section 5.2.4)
				return "", ErrName
			}
			return canonical, nil
		}
		name = canonical
	}
	return "", ErrName
}
