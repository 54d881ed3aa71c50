// The program is a service that is guarded by fiber's idempotency middleware, set up as its
// documentation says.
package main

import (
	"log"
	"os"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/idempotency"
	"github.com/gofiber/storage/redis/v3"
	"github.com/google/uuid"
)

func main() {
	config := idempotency.Config{KeyHeader: "Idempotency-Key"}
	if os.Getenv("STORE") == "redis" {
		config.Storage = redis.New(redis.Config{URL: os.Getenv("REDIS_URL")})
	}
	app := fiber.New()
	app.Use(idempotency.New(config))
	app.Post("/payments", func(c fiber.Ctx) error {
		var body struct {
			Amount    int    `json:"amount"`
			Reference string `json:"reference"`
		}
		if err := c.Bind().JSON(&body); err != nil {
			return fiber.NewError(fiber.StatusBadRequest, "not JSON")
		}
		if c.Get("X-Fail") != "" {
			return c.Status(fiber.StatusInternalServerError).JSON(fiber.Map{"code": "failed"})
		}
		if err := effect(body.Reference); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
		return c.Status(fiber.StatusCreated).JSON(fiber.Map{"id": uuid.NewString()})
	})
	log.Fatal(app.Listen("127.0.0.1:"+os.Getenv("PORT"), fiber.ListenConfig{DisableStartupMessage: true}))
}

func effect(reference string) error {
	file, err := os.OpenFile(os.Getenv("EFFECTS"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteString(reference + "\n")
	return err
}
