// The program is a service that answers 202 and hands the request to a consumer, which Watermill's
// deduplicator guards. The Idempotency-Key is the tag of the message.
package main

import (
	"context"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
)

const (
	topic = "payments"
	key   = "key"
)

func main() {
	queue := gochannel.NewGoChannel(gochannel.Config{OutputChannelBuffer: 1000}, watermill.NopLogger{})
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		log.Fatal(err)
	}
	seen, err := middleware.NewMapExpiringKeyRepository(time.Hour)
	if err != nil {
		log.Fatal(err)
	}
	guard := middleware.Deduplicator{
		KeyFactory: func(m *message.Message) (string, error) { return m.Metadata.Get(key), nil },
		Repository: seen,
		Timeout:    time.Second,
	}
	router.AddMiddleware(guard.Middleware)
	router.AddConsumerHandler("pay", topic, queue, pay)
	go func() { log.Fatal(router.Run(context.Background())) }()
	<-router.Running()
	http.HandleFunc("POST /payments", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		switch {
		case err != nil:
			return
		case r.Header.Get("X-Fail") != "":
			http.Error(w, "failed", http.StatusInternalServerError)
			return
		case r.Header.Get("Idempotency-Key") == "":
			http.Error(w, "Idempotency-Key is missing", http.StatusBadRequest)
			return
		}
		m := message.NewMessage(watermill.NewUUID(), body)
		m.Metadata.Set(key, r.Header.Get("Idempotency-Key"))
		if err := queue.Publish(topic, m); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}

func pay(m *message.Message) error {
	file, err := os.OpenFile(os.Getenv("EFFECTS"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.Write(append(m.Payload, '\n'))
	return err
}
