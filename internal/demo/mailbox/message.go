package mailbox

import (
	"bytes"
	"errors"
	"io"
	"net/mail"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-message"
	_ "github.com/emersion/go-message/charset" // reads more than UTF-8
	gomail "github.com/emersion/go-message/mail"
)

// summary is one message of a list, in the words of Mailpit's API.
type summary struct {
	ID        string
	MessageID string // without angle brackets
	From      *mail.Address
	To        []*mail.Address
	Cc        []*mail.Address
	Bcc       []*mail.Address // got it without being named in To or Cc
	Subject   string
	Created   time.Time // when it arrived
	Size      int       // bytes, with the envelope's lines
}

// letter is one message in full, in the words of Mailpit's API.
type letter struct {
	summary
	ReturnPath string
	Date       time.Time // what the message says, else Created
	Text       string
	HTML       string
}

// maxDepth bounds multiparts inside multiparts; real mail has three levels.
const maxDepth = 10

// recipientsHeader holds the envelope's recipients in a stored message.
const recipientsHeader = "X-Envelope-To"

// envelope returns the lines that keep the SMTP envelope on top of a stored message. The
// topmost line of a name counts, so that a sender cannot forge them.
func envelope(from string, to []string) []byte {
	list := make([]string, len(to))
	for i, address := range to {
		list[i] = (&mail.Address{Address: address}).String()
	}
	return []byte("Return-Path: " + (&mail.Address{Address: from}).String() + "\r\n" +
		recipientsHeader + ": " + strings.Join(list, ",\r\n ") + "\r\n")
}

// parse reads a stored message as far as it can be read: a sink lists broken mail too.
func parse(id string, created time.Time, raw []byte) letter {
	msg := letter{summary: summary{ID: id, From: &mail.Address{}, Created: created, Size: len(raw)}, Date: created}
	msg.To, msg.Cc, msg.Bcc = []*mail.Address{}, []*mail.Address{}, []*mail.Address{}
	entity, err := message.Read(bytes.NewReader(raw))
	if entity == nil {
		msg.Text = "This message cannot be read: " + err.Error()
		return msg
	}
	h := gomail.Header{Header: entity.Header}
	if from := addressList(h, "From"); len(from) > 0 {
		msg.From = from[0]
	}
	msg.MessageID = strings.Trim(h.Get("Message-Id"), "<> \t")
	msg.To, msg.Cc = addressList(h, "To"), addressList(h, "Cc")
	msg.Bcc = slices.DeleteFunc(addressList(h, recipientsHeader), func(a *mail.Address) bool {
		return slices.ContainsFunc(slices.Concat(msg.To, msg.Cc), func(named *mail.Address) bool {
			return strings.EqualFold(named.Address, a.Address)
		})
	})
	if msg.Subject, err = h.Subject(); err != nil {
		msg.Subject = h.Get("Subject")
	}
	if date, err := h.Date(); err == nil && !date.IsZero() {
		msg.Date = date
	}
	msg.ReturnPath = strings.Trim(h.Get("Return-Path"), "<>")
	msg.Text, msg.HTML = bodies(entity)
	return msg
}

// addressList is never nil, so that JSON shows an empty list. An address that cannot be read
// is shown as a name.
func addressList(h gomail.Header, name string) []*mail.Address {
	list, err := h.AddressList(name)
	if err != nil {
		return []*mail.Address{{Name: h.Get(name)}}
	}
	return append([]*mail.Address{}, list...)
}

// addresses writes a list for people to read and to search.
func addresses(list []*mail.Address) string {
	shown := make([]string, len(list))
	for i, a := range list {
		shown[i] = a.Address
		if a.Name != "" {
			shown[i] = a.Name + " <" + a.Address + ">"
		}
	}
	return strings.Join(shown, ", ")
}

// bodies returns the first text part and the first HTML part that are not attachments.
func bodies(entity *message.Entity) (text, html string) {
	_ = entity.Walk(func(path []int, part *message.Entity, _ error) error {
		if len(path) > maxDepth {
			return errors.New("too deep")
		}
		if disposition, _, _ := part.Header.ContentDisposition(); disposition == "attachment" {
			return nil
		}
		var body *string
		switch kind, _, _ := part.Header.ContentType(); {
		case kind == "text/plain" && text == "":
			body = &text
		case kind == "text/html" && html == "":
			body = &html
		default:
			return nil
		}
		content, err := io.ReadAll(part.Body)
		*body = string(content) // what could be read of it
		return err
	})
	return text, html
}
