package tokenfile

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds of each part of a key container: of the container's key, its MAC and each token. RFC 6030 has use for some 40 elements, 10 deep.
const (
	maxElements = 1000
	maxDepth    = 32
)

// The namespaces.
const (
	pskc   = "urn:ietf:params:xml:ns:keyprov:pskc"
	xenc   = "http://www.w3.org/2001/04/xmlenc#"
	xenc11 = "http://www.w3.org/2009/xmlenc11#"
	dsig   = "http://www.w3.org/2000/09/xmldsig#"
)

// spaces is the namespace of each element that is read by its name. The parameters of PBKDF2 are in whichever: RFC 6030 figure 7 has them in none,
// XML Encryption 1.1 in its own.
var spaces = map[string]string{
	"DeviceInfo": pskc, "SerialNo": pskc, "Manufacturer": pskc, "Model": pskc, "StartDate": pskc, "ExpiryDate": pskc,
	"Key": pskc, "AlgorithmParameters": pskc, "Suite": pskc, "ChallengeFormat": pskc, "ResponseFormat": pskc, "Policy": pskc, "PINPolicy": pskc,
	"Data": pskc, "Secret": pskc, "Counter": pskc, "Time": pskc, "TimeInterval": pskc, "TimeDrift": pskc,
	"PlainValue": pskc, "EncryptedValue": pskc, "ValueMAC": pskc, "MACKey": pskc,
	"EncryptionMethod": xenc, "CipherData": xenc, "CipherValue": xenc,
	"DerivedKey": xenc11, "KeyDerivationMethod": xenc11,
	"PBKDF2-params": "", "Salt": "", "Specified": "", "IterationCount": "", "KeyLength": "", "PRF": "",
}

// An element is an XML element and what is in it.
type element struct {
	xml.StartElement
	line     int    // where it begins
	text     string // without spaces around
	children []*element
}

// at finds an element by the names that lead to it. It is nil where there is none; so e may be nil too.
func (e *element) at(names ...string) *element {
	for _, name := range names {
		if e == nil {
			return nil
		}
		var found *element
		for _, child := range e.children {
			if child.Name.Local == name {
				found = child
				break
			}
		}
		e = found
	}
	return e
}

// value is the text of an element, "" where there is none.
func (e *element) value() string {
	if e == nil {
		return ""
	}
	return e.text
}

// attr is an attribute, "" where there is none.
func (e *element) attr(name string) string {
	if e != nil {
		for _, attr := range e.Attr {
			if attr.Name == (xml.Name{Local: name}) {
				return attr.Value
			}
		}
	}
	return ""
}

// flaw says what of an element lets readers disagree on what it means. Extensions may hold anything, and are not looked at.
func (e *element) flaw() error {
	if len(e.children) > 0 && e.text != "" {
		return fmt.Errorf("<%.40s> mixes text and elements", e.Name.Local)
	}
	seen := map[string]bool{}
	for _, child := range e.children {
		name := child.Name.Local
		space, known := spaces[name]
		switch {
		case name == "Extensions":
			continue
		case known && space != "" && child.Name.Space != space:
			return fmt.Errorf("<%s> is not of the namespace %s", name, space)
		case known && seen[name]:
			return fmt.Errorf("<%s> stands twice", name)
		}
		seen[name] = true
		if err := child.flaw(); err != nil {
			return err
		}
	}
	return nil
}

// A reader reads a document piece by piece, so that a large one is never a large tree.
type reader struct {
	*xml.Decoder
	elements int // of the part that is being read
}

// next is the next element, end of one or text, and the line where it begins. A document type is refused: what it defines is never wanted here.
func (r *reader) next() (xml.Token, int, error) {
	for {
		line, _ := r.InputPos()
		token, err := r.Token()
		if syntax, ok := errors.AsType[*xml.SyntaxError](err); ok {
			return nil, 0, located(syntax.Line, fmt.Errorf("not XML: %.100s", syntax.Msg))
		}
		if err == io.EOF {
			return nil, line, err
		}
		if err != nil { // it is in another character set
			return nil, 0, located(line, fmt.Errorf("not XML in UTF-8: %.100s", err))
		}
		switch token.(type) {
		case xml.Directive:
			return nil, 0, located(line, errors.New("a document type or entity is not taken"))
		case xml.Comment, xml.ProcInst:
		default:
			return token, line, nil
		}
	}
}

// open reads up to what is in the container.
func (r *reader) open() error {
	for {
		token, line, err := r.next()
		if err == io.EOF {
			return located(line, errors.New("the file ends without a KeyContainer"))
		}
		if err != nil {
			return err
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		if start.Name != (xml.Name{Space: pskc, Local: "KeyContainer"}) {
			return located(line, fmt.Errorf("want <KeyContainer> of the namespace %s", pskc))
		}
		if version := (&element{StartElement: start}).attr("Version"); version != "1.0" {
			return located(line, fmt.Errorf("it is of version %.20q, want 1.0", version))
		}
		return nil
	}
}

// child is the next element in the container, nil at its end.
func (r *reader) child() (*element, error) {
	for {
		token, line, err := r.next()
		if err != nil {
			return nil, err
		}
		switch token := token.(type) {
		case xml.StartElement:
			r.elements = 0
			return r.part(token, line, 0)
		case xml.EndElement:
			return nil, nil
		}
	}
}

// close sees to it that nothing follows the container: no second one is lost.
func (r *reader) close() error {
	for {
		token, line, err := r.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if text, ok := token.(xml.CharData); !ok || len(bytes.TrimSpace(text)) > 0 {
			return located(line, errors.New("the file goes on behind its KeyContainer"))
		}
	}
}

// part reads an element of which the start has been read.
func (r *reader) part(start xml.StartElement, line, depth int) (*element, error) {
	if r.elements++; r.elements > maxElements || depth > maxDepth {
		return nil, located(line, fmt.Errorf("more than %d elements in one part, or more than %d within each other", maxElements, maxDepth))
	}
	e := &element{StartElement: start.Copy(), line: line}
	var text strings.Builder
	for {
		token, line, err := r.next()
		if err != nil {
			return nil, err
		}
		switch token := token.(type) {
		case xml.StartElement:
			child, err := r.part(token, line, depth+1)
			if err != nil {
				return nil, err
			}
			e.children = append(e.children, child)
		case xml.CharData:
			text.Write(token)
		case xml.EndElement:
			e.text = strings.TrimSpace(text.String())
			return e, nil
		}
	}
}

// located says in which line an error is that is of the whole file.
func located(line int, err error) error { return fmt.Errorf("tokenfile: line %d: %w", line, err) }
