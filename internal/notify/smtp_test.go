package notify

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/onceshop/onceshop/internal/shoptest"
)

func newMailer(t *testing.T, smtpURL string, timeout time.Duration) *Mailer {
	t.Helper()
	m, err := NewMailer(smtpURL, timeout)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func testMessage() Message {
	return Message{ID: "receipt.1@shop.example", From: "Onceshop <shop@example.com>", To: "ann@example.com",
		Subject: "Your receipt", Text: "Hello", HTML: "<p>Hello</p>"}
}

// received is a message as the mailbox's API shows it.
type received struct {
	ID, MessageID, Subject, Text, HTML string
	From                               struct{ Name, Address string }
	To, Cc, Bcc                        []struct{ Name, Address string }
}

// startMailbox returns the URL of a real mailbox, and a function that reads all it holds.
func startMailbox(t *testing.T) (smtpURL string, all func() []received) {
	t.Helper()
	smtpURL, pages := shoptest.Mailbox(t)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string, out any) {
		t.Helper()
		res, err := client.Get(pages + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("GET %s: %s", path, res.Status)
		}
		if err := json.NewDecoder(res.Body).Decode(out); err != nil {
			t.Fatal(err)
		}
	}
	return smtpURL, func() []received {
		t.Helper()
		var list struct{ Messages []received }
		get("/api/v1/messages", &list)
		for i, m := range list.Messages {
			get("/api/v1/message/"+m.ID, &list.Messages[i])
		}
		return list.Messages
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestSendArrivesUnchanged(t *testing.T) {
	t.Parallel()
	smtpURL, all := startMailbox(t)
	sent := Message{
		ID:      "receipt.0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b@a-rather-long-host-name.shop.example.com:8080",
		From:    `"Café Once, Köln" <shop@example.com>`,
		To:      "Jörg Ærø <jörg@example.com>",
		Subject: "Your receipt from Café Once · order 0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b · €12.50 · ありがとう",
		Text:    "Grüße\n\n.\n.a line that starts with a dot\n" + strings.Repeat("long line ", 200) + "\nlast",
		HTML:    "<p>" + strings.Repeat("Grüße = ", 300) + "</p>",
	}
	if err := newMailer(t, smtpURL, 10*time.Second).Send(t.Context(), sent); err != nil {
		t.Fatal(err)
	}
	got := all()
	if len(got) != 1 {
		t.Fatalf("%d messages arrived, want 1", len(got))
	}
	m := got[0]
	if m.MessageID != sent.ID {
		t.Errorf("Message-ID %q, want %q", m.MessageID, sent.ID)
	}
	if m.Subject != sent.Subject {
		t.Errorf("subject %q, want %q", m.Subject, sent.Subject)
	}
	if m.From.Name != "Café Once, Köln" || m.From.Address != "shop@example.com" {
		t.Errorf("from %+v", m.From)
	}
	if len(m.To) != 1 || m.To[0].Name != "Jörg Ærø" || m.To[0].Address != "jörg@example.com" ||
		len(m.Cc)+len(m.Bcc) != 0 {
		t.Errorf("to %+v, cc %+v, bcc %+v", m.To, m.Cc, m.Bcc)
	}
	if text := strings.TrimRight(strings.ReplaceAll(m.Text, "\r\n", "\n"), "\n"); text != sent.Text {
		t.Errorf("text %q, want %q", text, sent.Text)
	}
	if html := strings.TrimRight(m.HTML, "\r\n"); html != sent.HTML {
		t.Errorf("html %q, want %q", html, sent.HTML)
	}
}

func TestSendRefusesHeaderInjection(t *testing.T) {
	t.Parallel()
	smtpURL, all := startMailbox(t)
	m := newMailer(t, smtpURL, 10*time.Second)
	fields := map[string]func(*Message) *string{
		"id":      func(msg *Message) *string { return &msg.ID },
		"from":    func(msg *Message) *string { return &msg.From },
		"to":      func(msg *Message) *string { return &msg.To },
		"subject": func(msg *Message) *string { return &msg.Subject },
	}
	for name, field := range fields {
		for _, evil := range []string{"\r\nBcc: evil@example.com", "\nBcc: evil@example.com", "\rBcc: evil@example.com",
			"\r\n Bcc: evil@example.com", "\x00", "\r\n\r\n<p>body</p>", "\u0085Bcc: evil@example.com"} {
			for _, end := range []string{"before", "after"} {
				msg := testMessage()
				value := field(&msg)
				if *value += evil; end == "before" {
					*value = evil + strings.TrimSuffix(*value, evil)
				}
				if err := m.Send(t.Context(), msg); !errors.Is(err, ErrRejected) {
					t.Errorf("%s with %q %s: %v, want ErrRejected", name, evil, end, err)
				}
			}
		}
	}
	for _, to := range []string{"", "ann", "ann@example.com, evil@example.com",
		"<ann@example.com> RCPT TO:<evil@example.com>", "ann@example.com>"} {
		msg := testMessage()
		msg.To = to
		if err := m.Send(t.Context(), msg); !errors.Is(err, ErrRejected) {
			t.Errorf("to %q: %v, want ErrRejected", to, err)
		}
	}
	for _, id := range []string{"", "x", "a@b@c", "<a@b>", "a b@c", "ä@b"} {
		msg := testMessage()
		msg.ID = id
		if err := m.Send(t.Context(), msg); !errors.Is(err, ErrRejected) {
			t.Errorf("id %q: %v, want ErrRejected", id, err)
		}
	}
	if got := all(); len(got) != 0 {
		t.Errorf("%d messages got through: %+v", len(got), got)
	}
}

// backend is a real SMTP server that answers one step with an error of the test's choice, and
// notes the logins it is offered.
type backend struct {
	mail, rcpt, data, auth error

	mu     sync.Mutex
	logins []string
}

func (b *backend) NewSession(*smtp.Conn) (smtp.Session, error) { return b, nil }
func (b *backend) Mail(string, *smtp.MailOptions) error        { return b.mail }
func (b *backend) Rcpt(string, *smtp.RcptOptions) error        { return b.rcpt }
func (b *backend) Reset()                                      {}
func (b *backend) Logout() error                               { return nil }
func (b *backend) AuthMechanisms() []string                    { return []string{sasl.Plain} }

func (b *backend) Data(r io.Reader) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	return b.data
}

func (b *backend) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, pass string) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.logins = append(b.logins, user+" "+pass)
		return b.auth
	}), nil
}

func (b *backend) start(t *testing.T, l net.Listener, starttls *tls.Config) {
	t.Helper()
	s := smtp.NewServer(b)
	s.Domain = "localhost"
	s.AllowInsecureAuth = true
	s.TLSConfig = starttls
	s.ReadTimeout, s.WriteTimeout = 10*time.Second, 10*time.Second
	s.ErrorLog = log.New(io.Discard, "", 0)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); _ = l.Close(); <-done })
}

func TestSendTellsWhoIsToBlame(t *testing.T) {
	t.Parallel()
	answer := func(code, subject, detail int) error {
		return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, subject, detail}, Message: "no"}
	}
	bare := func(code int, text string) error {
		return &smtp.SMTPError{Code: code, EnhancedCode: smtp.NoEnhancedCode, Message: text}
	}
	for name, tc := range map[string]struct {
		backend *backend
		want    error
	}{
		"sender refused":                   {&backend{mail: answer(550, 1, 1)}, ErrServer},
		"sender refused for policy":        {&backend{mail: answer(554, 7, 1)}, ErrServer},
		"sender later":                     {&backend{mail: answer(451, 1, 1)}, ErrServer},
		"no login where it needs":          {&backend{mail: answer(530, 7, 0)}, ErrServer},
		"no login where it needs, later":   {&backend{rcpt: answer(530, 7, 0)}, ErrServer},
		"server stops":                     {&backend{rcpt: answer(421, 3, 2)}, ErrServer},
		"recipient unknown":                {&backend{rcpt: answer(550, 1, 1)}, ErrRejected},
		"mailbox disabled":                 {&backend{rcpt: answer(550, 2, 1)}, ErrRejected},
		"recipient unknown, no detail":     {&backend{rcpt: bare(550, "no such user")}, ErrRejected},
		"recipient unknown, in the end":    {&backend{data: answer(550, 1, 1)}, ErrRejected},
		"relay refused":                    {&backend{rcpt: answer(554, 7, 1)}, ErrUnclear},
		"relay refused by its recipient":   {&backend{rcpt: answer(550, 7, 1)}, ErrUnclear},
		"relay refused, no detail":         {&backend{rcpt: bare(550, "Relaying denied")}, ErrUnclear},
		"refused without a word":           {&backend{rcpt: bare(554, "no")}, ErrUnclear},
		"content refused":                  {&backend{data: answer(554, 6, 0)}, ErrUnclear},
		"content refused for policy":       {&backend{data: answer(554, 7, 1)}, ErrUnclear},
		"content refused without a detail": {&backend{data: bare(554, "no")}, ErrUnclear},
		"recipient later":                  {&backend{rcpt: answer(450, 1, 1)}, nil},
		"content later":                    {&backend{data: answer(451, 7, 1)}, nil},
	} {
		l := listen(t)
		tc.backend.start(t, l, nil)
		err := newMailer(t, "smtp://"+l.Addr().String(), 10*time.Second).Send(t.Context(), testMessage())
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		for _, kind := range []error{ErrServer, ErrUnclear, ErrRejected} {
			if errors.Is(err, kind) != errors.Is(tc.want, kind) {
				t.Errorf("%s: %v, want %v", name, err, tc.want)
			}
		}
	}
	l := listen(t)
	url := "smtp://" + l.Addr().String()
	_ = l.Close()
	if err := newMailer(t, url, 10*time.Second).Send(t.Context(), testMessage()); !errors.Is(err, ErrServer) {
		t.Errorf("no server: %v, want ErrServer", err)
	}
	for answer, want := range map[string]error{"554 5.7.1 go away": ErrServer, "": ErrServer} {
		url := startScript(t, "220 ready\r\n", map[string]string{"EHLO": answer, "HELO": answer})
		if err := newMailer(t, url, 10*time.Second).Send(t.Context(), testMessage()); !errors.Is(err, want) {
			t.Errorf("EHLO answered %q: %v, want %v", answer, err, want)
		}
	}
	cut := startScript(t, "220 ready\r\n", map[string]string{
		"EHLO": "250 hi", "MAIL": "250 ok", "RCPT": "250 ok", "DATA": "354 go", ".": ""})
	if err := newMailer(t, cut, 10*time.Second).Send(t.Context(), testMessage()); !errors.Is(err, ErrUnclear) {
		t.Errorf("the line is cut at the end: %v, want ErrUnclear", err)
	}
}

func TestLoginOnlyOverTLS(t *testing.T) {
	t.Parallel()
	web := httptest.NewTLSServer(nil) // lends a certificate for 127.0.0.1
	t.Cleanup(web.Close)
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	server := &tls.Config{Certificates: web.TLS.Certificates}
	const user, login = "us%%40er:p%%40ss%%3A%%2Fword@", "us@er p@ss:/word"

	for name, tc := range map[string]struct {
		format             string
		starttls, implicit *tls.Config
		auth               error
		logins             string
		fails              bool
	}{
		"STARTTLS if offered":     {format: "smtp://" + user + "%s", starttls: server, logins: login},
		"STARTTLS required":       {format: "smtp://" + user + "%s?tls=required", starttls: server, logins: login},
		"TLS from the first byte": {format: "smtps://" + user + "%s", implicit: server, logins: login},
		"no user, no login":       {format: "smtp://%s", starttls: server},
		"wrong password": {format: "smtps://" + user + "%s", implicit: server, auth: smtp.ErrAuthFailed,
			logins: login, fails: true},
		"open line, no user":        {format: "smtp://%s"},
		"open line, user":           {format: "smtp://" + user + "%s", fails: true},
		"switched off, user":        {format: "smtp://" + user + "%s?tls=none", starttls: server, fails: true},
		"required, but not offered": {format: "smtp://%s?tls=required", fails: true},
	} {
		l, b := listen(t), &backend{auth: tc.auth}
		smtpURL := fmt.Sprintf(tc.format, l.Addr())
		if tc.implicit != nil {
			l = tls.NewListener(l, tc.implicit)
		}
		b.start(t, l, tc.starttls)
		m := newMailer(t, smtpURL, 10*time.Second)
		m.tls.RootCAs = roots
		pinged, sent := m.Ping(t.Context()), m.Send(t.Context(), testMessage())
		b.mu.Lock()
		logins := strings.Join(b.logins, ", ")
		b.mu.Unlock()
		if want := strings.Trim(tc.logins+", "+tc.logins, ", "); logins != want {
			t.Errorf("%s: logins %q, want %q", name, logins, want)
		}
		for step, err := range map[string]error{"Ping": pinged, "Send": sent} {
			if (err != nil) != tc.fails || errors.Is(err, ErrRejected) {
				t.Errorf("%s: %s: %v, want an error that is not ErrRejected: %v", name, step, err, tc.fails)
			}
			if err != nil && strings.Contains(err.Error(), "p@ss") {
				t.Errorf("%s: %s: the error contains the password: %v", name, step, err)
			}
		}
	}

	l := listen(t)
	(&backend{}).start(t, l, server)
	if err := newMailer(t, "smtp://"+l.Addr().String(), 10*time.Second).Send(t.Context(), testMessage()); err == nil {
		t.Error("a certificate of an unknown authority was accepted")
	}
}

// startScript starts a server with a fixed reply for the first word of each command. Without a
// reply it stays silent, and with an empty one it closes the connection.
func startScript(t *testing.T, greeting string, answers map[string]string) (smtpURL string) {
	t.Helper()
	l := listen(t)
	serve := func(conn net.Conn) {
		defer conn.Close()
		_, _ = io.WriteString(conn, greeting)
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			word, _, _ := strings.Cut(lines.Text(), " ")
			switch answer, known := answers[word]; {
			case known && answer == "":
				return
			case known:
				_, _ = io.WriteString(conn, answer+"\r\n")
			}
		}
	}
	var open sync.WaitGroup
	open.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); open.Wait() }) // returns only if Send closed its connections
	return "smtp://" + l.Addr().String()
}

func TestSendEnds(t *testing.T) {
	t.Parallel()
	const greeting = "220 ready\r\n"
	for name, smtpURL := range map[string]string{
		"no greeting":       startScript(t, "", nil),
		"no answer to EHLO": startScript(t, greeting, nil),
		"no answer to MAIL": startScript(t, greeting, map[string]string{"EHLO": "250 hi"}),
		"no answer to the end": startScript(t, greeting, map[string]string{
			"EHLO": "250 hi", "MAIL": "250 ok", "RCPT": "250 ok", "DATA": "354 go"}),
		"no greeting under TLS": strings.Replace(startScript(t, "", nil), "smtp:", "smtps:", 1),
		"STARTTLS goes nowhere": startScript(t, greeting, map[string]string{
			"EHLO": "250-hi\r\n250 STARTTLS", "STARTTLS": "220 go"}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			err := newMailer(t, smtpURL, 300*time.Millisecond).Send(t.Context(), testMessage())
			if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrRejected) {
				t.Errorf("timeout: %v, want context.DeadlineExceeded", err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if err := newMailer(t, smtpURL, time.Hour).Send(ctx, testMessage()); !errors.Is(err,
				context.DeadlineExceeded) {
				t.Errorf("context: %v, want context.DeadlineExceeded", err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestPingEnds(t *testing.T) {
	t.Parallel()
	smtpURL := startScript(t, "", nil)
	if err := newMailer(t, smtpURL, 100*time.Millisecond).Ping(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Ping: %v, want context.DeadlineExceeded", err)
	}
}

// An error after the acceptance does not make Send fail.
func TestSendSucceedsOnceTheServerHasTheMessage(t *testing.T) {
	t.Parallel()
	answers := map[string]string{"EHLO": "250 hi", "MAIL": "250 ok", "RCPT": "250 ok", "DATA": "354 go",
		".": "250 taken"}
	for name, goodbye := range map[string]string{"hangs up": "", "error": "500 what?"} {
		answers["QUIT"] = goodbye
		smtpURL := startScript(t, "220 ready\r\n", maps.Clone(answers))
		if err := newMailer(t, smtpURL, 10*time.Second).Send(t.Context(), testMessage()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	delete(answers, "QUIT")
	smtpURL := startScript(t, "220 ready\r\n", answers)
	if err := newMailer(t, smtpURL, 3*time.Second).Send(t.Context(), testMessage()); err != nil {
		t.Errorf("no goodbye: %v", err)
	}
}

func TestNewMailerRefusesBadURLs(t *testing.T) {
	t.Parallel()
	for _, smtpURL := range []string{
		"", "localhost:25", "http://localhost", "smtp://", "smtp://:25", "smtp://u:s3cret@", "smtp://u:s3cret@host:0",
		"smtp://u:s3cret@host:99999", "smtp://u:s3cret@host:x", "smtp://u:s3%cret@host", "smtp://u:s3cret@host/path",
		"smtp://u:s3cret@host?tls=off", "smtp://u:s3cret@host?ssl=1", "smtps://u:s3cret@host?tls=none",
	} {
		_, err := NewMailer(smtpURL, time.Second)
		if err == nil || !strings.Contains(err.Error(), "SMTP_URL") {
			t.Errorf("%q: %v, want an error that names SMTP_URL", smtpURL, err)
		} else if strings.Contains(err.Error(), "cret") {
			t.Errorf("%q: the error contains the password: %v", smtpURL, err)
		}
	}
	if _, err := NewMailer("smtp://localhost", 0); err == nil {
		t.Error("a timeout of 0 was accepted")
	}
}
