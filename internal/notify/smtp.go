package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/wneessen/go-mail"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/onceshop/onceshop/internal/tracing"
)

// Errors of Send. Any other error means that the recipient's mail is put off, by a 4xx reply.
var (
	// ErrRejected reports that a message is malformed or that its recipient was refused for good.
	ErrRejected = errors.New("notify: the message is rejected")
	// ErrServer reports trouble that every message would have: no connection, no login, or a
	// refused sender.
	ErrServer = errors.New("notify: the mail server takes no mail from the shop")
	// ErrUnclear reports trouble that one message has, and perhaps all: a refusal for policy or
	// content, or a connection that broke.
	ErrUnclear = errors.New("notify: the mail server did not take the message")
)

// Message is one mail with a text part and, unless HTML is empty, an HTML part. From and To hold
// one address each, bare or with a name. ID is the Message-ID without angle brackets. It arrives
// unchanged, so that mail systems can drop a duplicate.
type Message struct {
	ID, From, To, Subject, Text, HTML string
}

// messageID matches id-left@id-right in visible ASCII, without characters that could end the
// header.
var messageID = regexp.MustCompile(`^[!-;=?A-~]+@[!-;=?A-~]+$`)

// Mailer sends messages over SMTP, each on its own connection. It is safe for concurrent use.
type Mailer struct {
	host        string
	timeout     time.Duration
	implicitTLS bool
	tls         *tls.Config
	options     []mail.Option
}

// NewMailer reads SMTP_URL. With smtp://user:pass@host:port, the mailer uses STARTTLS if the server
// offers it; ?tls=none and ?tls=required change that. With smtps://, it uses TLS from the first
// byte. The ports default to 587 and 465. It logs in only if there is a user, and never sends the
// password without TLS. The timeout bounds one Send or Ping. No error contains the password.
func NewMailer(smtpURL string, timeout time.Duration) (*Mailer, error) {
	u, err := url.Parse(smtpURL)
	if err != nil {
		return nil, errors.New("SMTP_URL: not a URL; it looks like smtp://user:pass@host:port, " +
			"with special characters percent-encoded")
	}
	if u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		return nil, errors.New("SMTP_URL: want smtp://user:pass@host:port, with a host and without a path")
	}
	policy, err := tlsPolicy(u)
	if err != nil {
		return nil, err
	}
	port, err := smtpPort(u)
	if err != nil {
		return nil, err
	}
	if timeout <= 0 {
		return nil, fmt.Errorf("mail timeout: %v is not above zero", timeout)
	}
	m := &Mailer{
		host:        u.Hostname(),
		timeout:     timeout,
		implicitTLS: u.Scheme == "smtps",
		tls:         &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12},
	}
	m.options = []mail.Option{
		mail.WithPort(port), mail.WithTLSPolicy(policy), mail.WithTLSConfig(m.tls),
		mail.WithTimeout(timeout + time.Minute), // counts anew at each step; our context ends first
		mail.WithoutNoop(), mail.WithoutRset(),  // one message per connection needs neither
	}
	if user := u.User.Username(); user != "" {
		pass, _ := u.User.Password()
		m.options = append(m.options, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover),
			mail.WithUsername(user), mail.WithPassword(pass))
	}
	if _, err := mail.NewClient(m.host, m.options...); err != nil {
		return nil, fmt.Errorf("SMTP_URL: %w", err)
	}
	return m, nil
}

// tlsPolicy reads the scheme and ?tls=. It refuses unknown parameters: a misspelled one must not
// lead to a connection without TLS.
func tlsPolicy(u *url.URL) (mail.TLSPolicy, error) {
	query := u.Query()
	mode := query.Get("tls")
	query.Del("tls")
	if len(query) > 0 {
		return 0, errors.New("SMTP_URL: the only parameter is tls=none, tls=opportunistic or tls=required")
	}
	switch {
	case u.Scheme == "smtps" && mode == "":
		// The dialer does TLS, and such a server offers no STARTTLS.
		return mail.TLSOpportunistic, nil
	case u.Scheme == "smtps":
		return 0, errors.New("SMTP_URL: smtps:// is always TLS; leave ?tls= out")
	case u.Scheme != "smtp":
		return 0, errors.New("SMTP_URL: the scheme is neither smtp:// nor smtps://")
	case mode == "" || mode == "opportunistic":
		return mail.TLSOpportunistic, nil
	case mode == "none":
		return mail.NoTLS, nil
	case mode == "required":
		return mail.TLSMandatory, nil
	}
	return 0, fmt.Errorf("SMTP_URL: tls=%q is not one of none, opportunistic, required", mode)
}

func smtpPort(u *url.URL) (int, error) {
	switch {
	case u.Port() != "":
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		if err != nil || port == 0 {
			return 0, fmt.Errorf("SMTP_URL: port %s is not between 1 and 65535", u.Port())
		}
		return int(port), nil
	case u.Scheme == "smtps":
		return mail.DefaultPortSSL, nil
	}
	return mail.DefaultPortTLS, nil
}

// Send sends one message and returns nil once the server has accepted it. After any error but
// ErrRejected the server may have accepted it all the same. Send ends with ctx or after the
// mailer's timeout.
func (m *Mailer) Send(ctx context.Context, msg Message) (err error) {
	ctx, span := tracing.Start(ctx, "smtp send", trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attribute.String("server.address", m.host)))
	defer func() { tracing.End(span, err) }()
	out, err := msg.compose()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRejected, err)
	}
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	client, err := m.client(ctx)
	if err != nil {
		return fmt.Errorf("notify: send mail: %w", err)
	}
	err = client.DialAndSendWithContext(ctx, out)
	if out.IsDelivered() { // an error after the acceptance does not count
		return nil
	}
	err = m.failed(ctx, "send mail", err)
	if kind := blame(err); kind != nil {
		return fmt.Errorf("%w: %w", kind, err)
	}
	return err
}

// Ping connects, logs in if there is a user, and disconnects.
func (m *Mailer) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	client, err := m.client(ctx)
	if err != nil {
		return fmt.Errorf("notify: reach the mail server: %w", err)
	}
	conn, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return m.failed(ctx, "reach the mail server", err)
	}
	if err := client.CloseWithSMTPClient(conn); err != nil {
		return m.failed(ctx, "reach the mail server", err)
	}
	return nil
}

// client returns a client whose connection closes when ctx ends. The library itself observes a
// context only while it dials.
func (m *Mailer) client(ctx context.Context) (*mail.Client, error) {
	dial := (&net.Dialer{}).DialContext
	if m.implicitTLS {
		dial = (&tls.Dialer{Config: m.tls}).DialContext
	}
	closing := func(_ context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { _ = conn.Close() })
		return conn, nil
	}
	options := append([]mail.Option{mail.WithDialContextFunc(closing)}, m.options...)
	return mail.NewClient(m.host, options...)
}

// failed adds the server and, if ctx ended, its error: the library then reports a closed
// connection.
func (m *Mailer) failed(ctx context.Context, doing string, err error) error {
	if ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", ctx.Err(), err)
	}
	return fmt.Errorf("notify: %s: server %s: %w", doing, m.host, err)
}

// blame returns the kind of trouble that a failed delivery met, or nil if the mail is put off. See
// docs/decisions.md, D37.
func blame(err error) error {
	sent, ok := errors.AsType[*mail.SendError](err)
	if !ok { // there was no connection, no greeting, no TLS or no login
		return ErrServer
	}
	code := sent.ErrorCode()
	switch {
	case code == 421, code == 530, code == 535, sent.Reason == mail.ErrSMTPMailFrom, sent.Reason == mail.ErrConnCheck:
		return ErrServer
	case code == 0: // no reply
		return ErrUnclear
	case code < 500:
		return nil
	}
	switch subject := enhancedSubject(sent); {
	case subject == "1", subject == "2", subject == "4": // address, mailbox, routing: RFC 3463
		return ErrRejected
	case subject != "" && subject != "0", sent.Reason != mail.ErrSMTPRcptTo, code == 554:
		return ErrUnclear
	case policyWords.MatchString(replyOf(sent)):
		return ErrUnclear
	}
	return ErrRejected
}

var (
	// enhancedCode is the enhanced status code (RFC 3463) at the beginning of a reply.
	enhancedCode = regexp.MustCompile(`\b5\d\d[ -]"?5\.(\d{1,3})\.\d{1,3}\b`)
	// policyWords mark a refused recipient without an enhanced code as a refusal of the shop.
	policyWords = regexp.MustCompile(`(?i)relay|polic|block|denied|spam|auth`)
)

func enhancedSubject(err *mail.SendError) string {
	if found := enhancedCode.FindStringSubmatch(replyOf(err)); found != nil {
		return found[1]
	}
	return ""
}

// replyOf is the server's reply, without the address and the Message-ID that the library adds.
func replyOf(err *mail.SendError) string {
	reply, _, _ := strings.Cut(err.Error(), ", affected ")
	return reply
}

// compose builds the mail. It refuses control characters in headers and commands, so that no field
// can begin another one.
func (msg Message) compose() (*mail.Msg, error) {
	for _, field := range []struct{ name, value string }{
		{"from", msg.From}, {"to", msg.To}, {"subject", msg.Subject},
	} {
		if strings.ContainsFunc(field.value, unicode.IsControl) {
			return nil, fmt.Errorf("%s: line breaks and other control characters are not allowed", field.name)
		}
	}
	if !messageID.MatchString(msg.ID) {
		return nil, fmt.Errorf("id: %q is not of the form left@right", msg.ID)
	}
	out := mail.NewMsg(mail.WithNoDefaultUserAgent())
	if err := out.From(msg.From); err != nil {
		return nil, fmt.Errorf("from: %w", err)
	}
	if err := out.To(msg.To); err != nil {
		return nil, fmt.Errorf("to: %w", err)
	}
	out.SetMessageIDWithValue(msg.ID)
	out.Subject(msg.Subject)
	out.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: no vacation replies
	out.SetBodyString(mail.TypeTextPlain, msg.Text)
	if msg.HTML != "" {
		out.AddAlternativeString(mail.TypeTextHTML, msg.HTML)
	}
	return out, nil
}
