package mailbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/onceshop/onceshop/internal/demo/mailbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bundle is a running mailbox, seen from outside.
type bundle struct {
	*testing.T
	smtp, http string
	client     *http.Client
	box        *mailbox.Mailbox
	served     chan error
}

func setup(t *testing.T, dir string) *bundle {
	t.Helper()
	box, err := mailbox.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pages := httptest.NewServer(box.Handler(nil))
	b := &bundle{T: t, smtp: l.Addr().String(), http: pages.URL, client: pages.Client(), box: box,
		served: make(chan error, 1)}
	go func() { b.served <- box.ServeSMTP(l) }()
	t.Cleanup(pages.Close)
	t.Cleanup(b.stop)
	return b
}

// stop shuts the SMTP side down; a second call does nothing.
func (b *bundle) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := b.box.Shutdown(ctx); err != nil && !errors.Is(err, smtp.ErrServerClosed) {
		b.Errorf("Shutdown: %v", err)
	}
}

func (b *bundle) send(to []string, lines ...string) {
	b.Helper()
	if err := b.deliver(to, body(lines...)); err != nil {
		b.Fatalf("send: %v", err)
	}
}

func (b *bundle) deliver(to []string, content io.Reader) error {
	b.Helper()
	c, err := smtp.Dial(b.smtp)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Mail("shop@example.com", &smtp.MailOptions{UTF8: true}); err != nil {
		return err
	}
	for _, address := range to {
		if err := c.Rcpt(address, nil); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, content); err != nil {
		return err
	}
	return w.Close()
}

func body(lines ...string) io.Reader { return strings.NewReader(strings.Join(lines, "\r\n") + "\r\n") }

func (b *bundle) call(method, path, payload string) (int, http.Header, string) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), method, b.http+path, strings.NewReader(payload))
	if err != nil {
		b.Fatal(err)
	}
	res, err := b.client.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		b.Fatal(err)
	}
	return res.StatusCode, res.Header, string(content)
}

type address struct{ Name, Address string }

type item struct {
	ID, MessageID string
	From          address
	To, Cc, Bcc   []address
	Subject       string
	Created       time.Time
	Size          int
}

type list struct {
	Total         int    `json:"total"`
	MessagesCount int    `json:"messages_count"`
	Count         int    `json:"count"`
	Start         int    `json:"start"`
	Messages      []item `json:"messages"`
}

// get decodes an answer strictly: a field that is missing in the type above is an error.
func get[T any](b *bundle, path string) T {
	b.Helper()
	status, _, content := b.call("GET", path, "")
	if status != 200 {
		b.Fatalf("GET %s: %d %s", path, status, content)
	}
	var out T
	d := json.NewDecoder(strings.NewReader(content))
	d.DisallowUnknownFields()
	if err := d.Decode(&out); err != nil {
		b.Fatalf("GET %s: %v in %s", path, err, content)
	}
	return out
}

func subjects(l list) []string {
	var out []string
	for _, m := range l.Messages {
		out = append(out, m.Subject)
	}
	return out
}

func TestMessagesSurviveARestart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "mail")
	b := setup(t, dir)
	for i := range 3 {
		b.send([]string{"a@example.com"}, fmt.Sprintf("Subject: number %d", i), "To: a@example.com", "", "hello")
		files, err := filepath.Glob(filepath.Join(dir, "*.eml"))
		if err != nil || len(files) != i+1 {
			t.Fatalf("after the 250: %d files (%v), want %d", len(files), err, i+1)
		}
	}
	before := get[list](b, "/api/v1/messages")
	if want := []string{"number 2", "number 1", "number 0"}; !slices.Equal(subjects(before), want) {
		t.Fatalf("subjects %q, want %q", subjects(before), want)
	}
	b.stop()

	for _, name := range []string{"123.tmp", "notes.txt", "other.eml"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b = setup(t, dir)
	if diff := cmp.Diff(before, get[list](b, "/api/v1/messages")); diff != "" {
		t.Errorf("list after the restart (-before +after):\n%s", diff)
	}
	left, err := filepath.Glob(filepath.Join(dir, "[no1]*.*t*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "notes.txt" {
		t.Errorf("files %q (%v): want the unfinished message gone and foreign files left alone", left, err)
	}
	b.send([]string{"a@example.com"}, "Subject: number 3", "", "hello")
	if got := subjects(get[list](b, "/api/v1/messages"))[0]; got != "number 3" {
		t.Errorf("newest after the restart is %q", got)
	}
}

func TestMessage(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"", t.TempDir()} {
		b := setup(t, dir)
		b.send([]string{"ann@example.com", "böb@example.com", "hidden@example.com"},
			"From: =?utf-8?q?Caf=C3=A9_Once?= <shop@example.com>",
			"To: Ann <ann@example.com>, =?iso-8859-1?q?B=F6b?= <böb@example.com>",
			"Cc: carol@example.com",
			"Subject: =?utf-8?b?UmVjZWlwdCDigqwxMi41MA==?=",
			"Date: Mon, 02 Mar 2026 10:00:00 +0100",
			"Message-ID: <receipt.1@shop.example>",
			"X-Envelope-To: forged@example.com",
			"MIME-Version: 1.0",
			`Content-Type: multipart/alternative; boundary="x"`,
			"", "--x", "Content-Type: text/plain; charset=iso-8859-1", "Content-Transfer-Encoding: quoted-printable",
			"",
			"Gr=FC=DFe", "--x", "Content-Type: text/html; charset=utf-8", "", "<p>Grüße</p>", "--x--")

		summary := get[list](b, "/api/v1/messages").Messages[0]
		if age := time.Since(summary.Created); age < -time.Second || age > time.Minute {
			t.Errorf("Created = %v, want now", summary.Created)
		}
		type message struct {
			item
			ReturnPath, Text, HTML string
			Date                   time.Time
		}
		got := get[message](b, "/api/v1/message/"+summary.ID)
		if diff := cmp.Diff(summary, got.item); diff != "" {
			t.Errorf("list and message differ (-list +message):\n%s", diff)
		}
		want := message{
			item: item{
				ID: summary.ID, Created: summary.Created, Size: summary.Size,
				MessageID: "receipt.1@shop.example",
				Subject:   "Receipt €12.50",
				From:      address{"Café Once", "shop@example.com"},
				To:        []address{{"Ann", "ann@example.com"}, {"Böb", "böb@example.com"}},
				Cc:        []address{{"", "carol@example.com"}},
				Bcc:       []address{{"", "hidden@example.com"}},
			},
			ReturnPath: "shop@example.com",
			Text:       "Grüße",
			HTML:       "<p>Grüße</p>",
			Date:       time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC),
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(message{}), cmp.Comparer(time.Time.Equal)); diff != "" {
			t.Errorf("message (-want +got):\n%s", diff)
		}
		for _, path := range []string{"/api/v1/message/none", "/view/none", "/view/none/html", "/api/v1/other",
			"/none", "/api/v1/message/..%2f..%2fetc%2fpasswd"} {
			if status, _, _ := b.call("GET", path, ""); status != 404 {
				t.Errorf("GET %s: %d, want 404", path, status)
			}
		}
	}
}

func TestListPages(t *testing.T) {
	t.Parallel()
	b := setup(t, "")
	empty := get[list](b, "/api/v1/messages")
	if empty.Total != 0 || empty.Messages == nil {
		t.Errorf("empty mailbox: %+v, want total 0 and an empty list", empty)
	}
	for i := range 52 {
		b.send([]string{"a@example.com"}, fmt.Sprintf("Subject: number %d", i), "", "x")
	}
	for query, want := range map[string]struct {
		first        string
		count, start int
	}{
		"":                    {"number 51", 50, 0},
		"?limit=2":            {"number 51", 2, 0},
		"?limit=500":          {"number 51", 52, 0},
		"?start=1&limit=1":    {"number 50", 1, 1},
		"?start=51":           {"number 0", 1, 51},
		"?start=99":           {"", 0, 99},
		"?limit=-1&start=one": {"number 51", 50, 0},
	} {
		got := get[list](b, "/api/v1/messages"+query)
		first := ""
		if len(got.Messages) > 0 {
			first = got.Messages[0].Subject
		}
		if got.Total != 52 || got.MessagesCount != 52 || first != want.first ||
			got.Count != want.count || len(got.Messages) != want.count || got.Start != want.start {
			t.Errorf("%q: first %q, total %d, messages_count %d, count %d, start %d; want %+v",
				query, first, got.Total, got.MessagesCount, got.Count, got.Start, want)
		}
	}
}

func TestSearch(t *testing.T) {
	t.Parallel()
	b := setup(t, "")
	b.send([]string{"ann@example.com"}, "To: Ann Lee <ann@example.com>", "Subject: Your Receipt",
		"Message-ID: <receipt.1@shop>", "", "Espresso cups")
	b.send([]string{"bob@example.com"}, "To: bob@example.com", "Subject: Your Receipt", "Message-ID: <receipt.2@shop>",
		"", "Teapot, wait: blue")
	b.send([]string{"bob@example.com"}, "To: bob@example.com", "Subject: Welcome", "Message-ID: <welcome@shop>", "",
		"Receipt of your address by ann@example.com")
	for query, want := range map[string]string{
		`to:ann@example.com`:            "receipt.1@shop",
		`to:ANN@example.com`:            "receipt.1@shop",
		`to:"ann lee"`:                  "receipt.1@shop",
		`to:nobody@example.com`:         "",
		`to:bob@example.com`:            "welcome@shop receipt.2@shop",
		`subject:receipt`:               "receipt.2@shop receipt.1@shop",
		`subject:"your receipt"`:        "receipt.2@shop receipt.1@shop",
		`subject:"receipt your"`:        "",
		`message-id:receipt.2@shop`:     "receipt.2@shop",
		`message-id:<receipt.2@shop>`:   "receipt.2@shop",
		`espresso`:                      "receipt.1@shop",
		`"espresso cups"`:               "receipt.1@shop",
		`"teapot, wait: blue"`:          "receipt.2@shop",
		`receipt`:                       "welcome@shop receipt.2@shop receipt.1@shop",
		`receipt to:bob@example.com`:    "welcome@shop receipt.2@shop",
		`to:bob@example.com espresso`:   "",
		`subject:receipt to:bob teapot`: "receipt.2@shop",
	} {
		got := get[list](b, "/api/v1/search?query="+url.QueryEscape(query))
		var ids []string
		for _, m := range got.Messages {
			ids = append(ids, m.MessageID)
		}
		if strings.Join(ids, " ") != want || got.MessagesCount != len(ids) || got.Total != 3 {
			t.Errorf("%s: %q, messages_count %d, total %d; want %q of 3", query, ids, got.MessagesCount, got.Total,
				want)
		}
	}
	if got := get[list](b, "/api/v1/search?query=receipt&limit=1&start=1"); got.MessagesCount != 3 ||
		subjects(got)[0] != "Your Receipt" {
		t.Errorf("second page of a search: %+v", got)
	}
	if status, _, _ := b.call("GET", "/api/v1/search?query=+", ""); status != 400 {
		t.Errorf("search for nothing: %d, want 400", status)
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, dir := range []string{"", dir} {
		b := setup(t, dir)
		for i := range 4 {
			b.send([]string{"a@example.com"}, fmt.Sprintf("Subject: number %d", i), "", "x")
		}
		all := get[list](b, "/api/v1/messages").Messages
		if status, _, _ := b.call("DELETE", "/api/v1/messages", `{"IDs":`); status != 400 {
			t.Errorf("malformed body: %d, want 400", status)
		}
		status, _, ok := b.call("DELETE", "/api/v1/messages", `{"IDs":["`+all[1].ID+`","`+all[2].ID+`","none"]}`)
		if status != 200 || ok != "ok" {
			t.Errorf("delete two: %d %q, want 200 ok", status, ok)
		}
		if got := subjects(get[list](b, "/api/v1/messages")); !slices.Equal(got, []string{"number 3", "number 0"}) {
			t.Errorf("left %q", got)
		}
		if status, _, _ := b.call("GET", "/api/v1/message/"+all[1].ID, ""); status != 404 {
			t.Errorf("deleted message: %d, want 404", status)
		}
		if status, _, _ := b.call("DELETE", "/api/v1/messages", ""); status != 200 {
			t.Errorf("delete all: %d, want 200", status)
		}
		if got := get[list](b, "/api/v1/messages"); got.Total != 0 {
			t.Errorf("%d left", got.Total)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
		t.Errorf("files left: %v (%v)", files, err)
	}
}

func TestLimitsAndFailures(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "mail")
	b := setup(t, dir)
	try := func(to []string, content io.Reader) int {
		err := b.deliver(to, content)
		var refused *smtp.SMTPError
		if err != nil && !errors.As(err, &refused) {
			t.Fatalf("send: %v", err)
		}
		if refused == nil {
			return 250
		}
		return refused.Code
	}
	one := []string{"a@example.com"}
	line := strings.Repeat("x", 998) + "\r\n"
	if code := try(one, strings.NewReader("Subject: big\r\n\r\n"+strings.Repeat(line, 1040))); code != 250 {
		t.Errorf("just under 1 MiB: %d, want 250", code)
	}
	if code := try(one, strings.NewReader("Subject: big\r\n\r\n"+strings.Repeat(line, 1060))); code != 552 {
		t.Errorf("over 1 MiB: %d, want 552", code)
	}
	if code := try(slices.Repeat(one, 50), body("Subject: many", "", "x")); code != 250 {
		t.Errorf("50 recipients: %d, want 250", code)
	}
	if code := try(slices.Repeat(one, 51), body("Subject: too many", "", "x")); code != 452 {
		t.Errorf("51 recipients: %d, want 452", code)
	}
	for _, broken := range []string{"no header at all", "Content-Type: multipart/mixed\r\n\r\nx",
		"To: @@\r\nDate: never\r\n\r\nx"} {
		if code := try(one, body(broken)); code != 250 {
			t.Errorf("broken message: %d, want 250", code)
		}
	}
	got := get[list](b, "/api/v1/messages")
	if got.Total != 5 {
		t.Errorf("%d messages kept, want 5", got.Total)
	}
	for _, m := range got.Messages {
		if status, _, content := b.call("GET", "/view/"+m.ID, ""); status != 200 {
			t.Errorf("view: %d %s", status, content)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if code := try(one, body("Subject: no disk", "", "x")); code != 451 {
		t.Errorf("folder gone: %d, want 451", code)
	}
	if got := get[list](b, "/api/v1/messages"); got.Total != 5 {
		t.Errorf("%d messages, though the sixth was not stored", got.Total)
	}
}

func TestPagesEscapeEverything(t *testing.T) {
	t.Parallel()
	b := setup(t, "")
	const evil = `<script>alert(1)</script>`
	b.send([]string{"a@example.com"}, `From: "`+evil+`" <shop@example.com>`, `To: "`+evil+`" <a@example.com>`,
		"Subject: "+evil,
		"Message-ID: <"+evil+"@x>", `Content-Type: multipart/alternative; boundary="x"`,
		"", "--x", "Content-Type: text/plain", "", evil, "--x", "Content-Type: text/html", "", evil+"<p>hello</p>",
		"--x--")
	id := get[list](b, "/api/v1/messages").Messages[0].ID

	for _, path := range []string{"/", "/view/" + id} {
		status, header, page := b.call("GET", path, "")
		if status != 200 || strings.Contains(page, "<script") || !strings.Contains(page, "&lt;script&gt;") {
			t.Errorf("GET %s: %d, or not escaped:\n%s", path, status, page)
		}
		if policy := header.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") {
			t.Errorf("GET %s: policy %q", path, policy)
		}
	}
	const frame = `<iframe class="mail" sandbox="allow-popups `
	if _, _, page := b.call("GET", "/view/"+id, ""); !strings.Contains(page, frame) ||
		strings.Contains(page, "allow-scripts") {
		t.Errorf("the message's HTML is not in a sandbox:\n%s", page)
	}
	_, header, page := b.call("GET", "/view/"+id+"/html", "")
	policy := header.Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "sandbox ") || strings.Contains(policy, "script") ||
		!strings.Contains(policy, "default-src 'none'") {
		t.Errorf("HTML part: policy %q", policy)
	}
	if page != evil+"<p>hello</p>" {
		t.Errorf("HTML part is not as sent: %s", page)
	}
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	b := setup(t, "")
	conn, err := net.Dial("tcp", b.smtp)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 512)); err != nil { // the greeting
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.box.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown with an open connection: %v, want that of the context", err)
	}
	if err := <-b.served; err != nil {
		t.Errorf("ServeSMTP: %v, want nil after Shutdown", err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection outlives Shutdown")
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.box.ServeSMTP(l); err != nil {
		t.Errorf("ServeSMTP after Shutdown: %v, want nil at once", err)
	}
}
