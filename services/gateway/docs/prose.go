package docs

import (
	"html/template"
	"regexp"
	"strings"
)

var (
	code = regexp.MustCompile("`([^`]+)`")
	bold = regexp.MustCompile(`\*\*([^*]+)\*\*`)
)

// inline is a line of the documents' CommonMark as HTML: code and strong words, which is what they use of it.
func inline(text string) template.HTML {
	safe := template.HTMLEscapeString(text)
	safe = code.ReplaceAllString(safe, "<code>$1</code>")
	return template.HTML(bold.ReplaceAllString(safe, "<strong>$1</strong>"))
}

// prose is a description as HTML: paragraphs and lists, with an empty line between them.
func prose(text string) template.HTML {
	var out strings.Builder
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		if items, ok := strings.CutPrefix(block, "- "); ok {
			out.WriteString("<ul>")
			for item := range strings.SplitSeq(items, "\n- ") {
				out.WriteString("<li>" + string(inline(item)) + "</li>")
			}
			out.WriteString("</ul>")
		} else if block != "" {
			out.WriteString("<p>" + string(inline(block)) + "</p>")
		}
	}
	return template.HTML(out.String())
}
