package tokenfile

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/sekisho/sekisho/services/internal/oath"
)

// CSV reads lines in the form that token makers and privacyIDEA use. It has no title line and no standard:
//
//	serial, seed, HOTP, digits, counter, hash
//	serial, seed, TOTP, digits, seconds, hash
//	serial, seed, OCRA, suite, counter
//
// The seed is in hex. What is left out is HOTP, 6 digits, counter 0, 30 seconds and SHA1, however long the seed is. Empty lines, lines that begin with '#', spaces around a
// value and a byte order mark count for nothing. The error is of a file that is not CSV or has no lines; it names the line.
func CSV(data []byte) ([]Token, []Problem, error) {
	if bytes.Count(data, []byte(",")) > 8*maxTokens { // each of which would be a column, in a line as long as the file
		return nil, nil, errTooMany
	}
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(data, []byte("\ufeff"))))
	r.Comment, r.FieldsPerRecord, r.TrimLeadingSpace = '#', -1, true
	var d delivery
	for {
		columns, err := r.Read()
		if err == io.EOF {
			return d.all()
		}
		if wrong, ok := errors.AsType[*csv.ParseError](err); ok { // from there on nobody can tell where a line ends
			return nil, nil, located(wrong.StartLine, wrong.Err)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("tokenfile: %w", err)
		}
		for i, column := range columns {
			columns[i] = strings.TrimSpace(column)
		}
		if all := strings.Join(columns, ""); all == "" || all[0] == '#' {
			continue
		}
		if d.full() {
			return nil, nil, errTooMany
		}
		line, _ := r.FieldPos(0)
		t, err := columnsToken(columns)
		t.Line = line
		d.add(t, err)
	}
}

// columnsToken reads a line. Its errors quote nothing: where columns are mixed up any of them may be the seed.
func columnsToken(columns []string) (t Token, err error) {
	columns = append(columns, make([]string, 6)...) // what is left out
	serial, seed, algorithm, digits, moving, hash, rest := columns[0], columns[1], columns[2], columns[3], columns[4], columns[5], columns[6:]
	if t.Secret, err = hex.DecodeString(seed); err != nil || len(t.Secret) < oath.MinSecret {
		return t, fmt.Errorf("the second column is not a seed of at least %d bytes in hex", oath.MinSecret)
	}
	t.Serial = serial // only now, for in mixed up columns the first may be the seed
	if strings.Join(rest, "") != "" {
		return t, errors.New("there are more than 6 columns")
	}
	t.Algorithm = oath.Algorithm(strings.ToLower(cmp.Or(algorithm, string(oath.HOTP))))
	switch t.Algorithm {
	case oath.OCRA:
		if t.Suite = digits; hash != "" {
			return t, errors.New("there are more than 5 columns")
		}
		t.Counter, err = column(moving, 0, "fifth")
		return t, err
	case oath.HOTP:
		t.Counter, err = column(moving, 0, "fifth")
	case oath.TOTP:
		var seconds int64
		seconds, err = column(moving, 30, "fifth")
		t.Period = time.Duration(min(seconds, maxSeconds)) * time.Second
	default:
		return t, errors.New("the third column is none of HOTP, TOTP and OCRA")
	}
	if err != nil {
		return t, err
	}
	n, err := column(digits, oath.MinDigits, "fourth")
	if err != nil {
		return t, err
	}
	t.Digits = int(n)
	t.Hash, err = hashOf(hash)
	return t, err
}

// column reads a number, which is missing where the column is empty.
func column(value string, missing int64, which string) (int64, error) {
	if value == "" {
		return missing, nil
	}
	n, err := strconv.ParseUint(value, 10, 53)
	if err != nil {
		return 0, fmt.Errorf("the %s column is not a whole number", which)
	}
	return int64(n), nil
}
