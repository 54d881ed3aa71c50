package docs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Request is an example request of a call.
type Request struct {
	Method string
	// Target is the path with its parameters and its query.
	Target string
	Token  string
	Header []Field
	// Body is compact JSON, or "".
	Body string
}

// Request returns the call's first example request.
func (c Call) Request(token string) Request {
	r := Request{Method: c.Method, Target: c.Path}
	if c.Token != "" {
		r.Token = token
	}
	var query []string
	for _, p := range c.Parameters {
		switch p.In {
		case "path":
			r.Target = strings.ReplaceAll(r.Target, "{"+p.Name+"}", p.Example)
		case "query":
			query = append(query, p.Name+"="+p.Example)
		case "header":
			r.Header = append(r.Header, p)
		}
	}
	if query != nil {
		r.Target += "?" + strings.Join(query, "&")
	}
	if len(c.Requests) > 0 {
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(c.Requests[0].JSON)); err == nil {
			r.Body = compact.String()
		}
	}
	return r
}

// Curl returns the request as a shell command.
func (r Request) Curl(shop string) string {
	lines := []string{"curl -i " + shellQuoted(shop+r.Target)}
	if r.Method != "GET" && r.Body == "" {
		lines = []string{"curl -i -X " + r.Method + " " + shellQuoted(shop+r.Target)}
	}
	if r.Token != "" {
		lines = append(lines, `-H "Authorization: Bearer `+r.Token+`"`)
	}
	for _, h := range r.Header {
		lines = append(lines, "-H "+shellQuoted(h.Name+": "+h.Example))
	}
	if r.Body != "" {
		lines = append(lines, "-H 'Content-Type: application/json'", "-d "+shellQuoted(r.Body))
	}
	return strings.Join(lines, " \\\n  ")
}

func shellQuoted(text string) string {
	if !strings.ContainsAny(text, " ?&'\"\\$;,{}()<>|*`") {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// Go returns the request as the statements of a Go function that returns an error.
func (r Request) Go(shop string) string {
	var code strings.Builder
	body := "nil"
	if r.Body != "" {
		body = "body"
		fmt.Fprintf(&code, "body := strings.NewReader(%s)\n", goQuoted(r.Body))
	}
	fmt.Fprintf(&code, "request, err := http.NewRequestWithContext(ctx, %q, %q, %s)\n", r.Method, shop+r.Target, body)
	code.WriteString("if err != nil {\n\treturn err\n}\n")
	if r.Token != "" {
		token := fmt.Sprintf("%q", "Bearer "+r.Token)
		if name, ok := strings.CutPrefix(r.Token, "$"); ok {
			token = fmt.Sprintf("\"Bearer \"+os.Getenv(%q)", name)
		}
		fmt.Fprintf(&code, "request.Header.Set(\"Authorization\", %s)\n", token)
	}
	retry := ""
	for _, h := range r.Header {
		fmt.Fprintf(&code, "request.Header.Set(%q, %q)\n", h.Name, h.Example)
		if h.Name == keyHeader {
			retry = " // it may have happened: send it again with the same key"
		}
	}
	if r.Body != "" {
		code.WriteString("request.Header.Set(\"Content-Type\", \"application/json\")\n")
	}
	fmt.Fprintf(&code, "answer, err := http.DefaultClient.Do(request)\nif err != nil {\n\treturn err%s\n}\n"+
		"defer answer.Body.Close()\n", retry)
	return code.String()
}

func goQuoted(text string) string {
	if strings.Contains(text, "`") {
		return fmt.Sprintf("%q", text)
	}
	return "`" + text + "`"
}
