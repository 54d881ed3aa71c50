package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/onceshop/onceshop/internal/accounts"
	"github.com/onceshop/onceshop/internal/money"
	"github.com/onceshop/onceshop/internal/orders"
	"github.com/onceshop/onceshop/internal/pg"
	"github.com/onceshop/onceshop/internal/problem"
)

// withDatabase calls run with the database of DATABASE_URL, or of the demo that runs on
// SHOP_DATA_DIR.
func withDatabase(ctx context.Context, config Config, run func(*pgxpool.Pool) error) error {
	config, err := config.WithDemo()
	if err != nil {
		return err
	}
	pool, err := pg.Open(ctx, config.DatabaseURL, 4)
	if err != nil {
		return UsageError{err}
	}
	defer pool.Close()
	if err := pool.Ping(ctx); err != nil {
		return fmt.Errorf("the database of DATABASE_URL (or of the demo on SHOP_DATA_DIR) does not answer: %w", err)
	}
	return run(pool)
}

// MigrateUp applies the missing migrations and lists them on out. If the shop has no products, it
// adds the catalog, without stock.
func MigrateUp(ctx context.Context, config Config, out io.Writer) error {
	return withDatabase(ctx, config, func(pool *pgxpool.Pool) error {
		applied, err := pg.Migrate(ctx, pool)
		if err != nil {
			return err
		}
		for _, version := range applied {
			fmt.Fprintf(out, "applied %05d\n", version)
		}
		if len(applied) == 0 {
			fmt.Fprintln(out, "up to date")
		}
		shop := orders.New(pool, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
		products, err := shop.Products(ctx)
		if err != nil || len(products) > 0 {
			return err
		}
		fmt.Fprintf(out, "added %d products; raise their stock with `shop import` or POST /v1/deliveries\n",
			len(catalog))
		return AddCatalog(ctx, shop)
	})
}

// MigrateStatus lists every migration on out.
func MigrateStatus(ctx context.Context, config Config, out io.Writer) error {
	return withDatabase(ctx, config, func(pool *pgxpool.Pool) error {
		all, err := pg.MigrationStatus(ctx, pool)
		if err != nil {
			return err
		}
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, m := range all {
			state := "pending"
			if m.Applied {
				state = "applied"
			}
			fmt.Fprintf(table, "%s\t%s\n", m.File, state)
		}
		return table.Flush()
	})
}

// SaveProduct puts a product on sale or changes it. Price is in major units of the currency. What
// is nil stays as it is.
func SaveProduct(
	ctx context.Context, config Config, sku string, name, description, price *string, currency string, out io.Writer,
) error {
	save := orders.SaveProduct{SKU: sku, Name: name, Description: description}
	if price != nil {
		if !money.Valid(currency) {
			return UsageError{fmt.Errorf("%q is not an ISO 4217 currency such as EUR", currency)}
		}
		parsed, err := money.Parse(*price, currency)
		if err != nil {
			return UsageError{err}
		}
		save.Price = &parsed
	}
	return withDatabase(ctx, config, func(pool *pgxpool.Pool) error {
		shop := orders.New(pool, orders.DefaultExpiry, time.Now, slog.New(slog.DiscardHandler))
		added, err := shop.Save(ctx, save)
		_, invalid := errors.AsType[problem.InvalidError](err)
		switch {
		case errors.Is(err, orders.ErrNewProduct):
			return UsageError{fmt.Errorf("%s is a new product: give --name, --price and --currency", sku)}
		case invalid:
			return UsageError{err}
		case err != nil:
			return err
		case added:
			_, err = fmt.Fprintf(out, "%s is on sale; raise its stock with `shop import` or POST /v1/deliveries\n", sku)
		default:
			_, err = fmt.Fprintf(out, "%s is changed\n", sku)
		}
		return err
	})
}

// IssueToken creates a token and prints it on out. Only its hash is stored, so it cannot be shown
// again. With a lifetime of zero it does not expire.
func IssueToken(
	ctx context.Context, config Config, email string, admin bool, lifetime time.Duration, out io.Writer,
) error {
	return withDatabase(ctx, config, func(pool *pgxpool.Pool) error {
		token, err := accounts.New(pool, false).IssueTokenFor(ctx, lifetime, email, admin)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(out, token)
		return err
	})
}

// ListTokens lists the tokens on out, by their first characters.
func ListTokens(ctx context.Context, config Config, out io.Writer) error {
	return withDatabase(ctx, config, func(pool *pgxpool.Pool) error {
		tokens, err := accounts.New(pool, false).Tokens(ctx)
		if err != nil {
			return err
		}
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "PREFIX\tCUSTOMER\tROLE\tCREATED\tEXPIRES\tSTATE")
		for _, token := range tokens {
			role, expires, state := "customer", "never", "valid"
			if token.Admin {
				role = "admin"
			}
			if token.ExpiresAt != nil {
				expires = token.ExpiresAt.UTC().Format(time.RFC3339)
			}
			switch {
			case token.RevokedAt != nil:
				state = "revoked " + token.RevokedAt.UTC().Format(time.RFC3339)
			case !token.Good:
				state = "expired"
			case token.Demo:
				state = "demo only"
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", token.Prefix, token.Email, role,
				token.CreatedAt.UTC().Format(time.RFC3339), expires, state)
		}
		return table.Flush()
	})
}

// RevokeToken ends the token that begins with the text, and its sessions.
func RevokeToken(ctx context.Context, config Config, text string, out io.Writer) error {
	return withDatabase(ctx, config, func(pool *pgxpool.Pool) error {
		prefix, err := accounts.New(pool, false).RevokeToken(ctx, text)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s… is revoked. A node that has just seen it refuses it within a second.\n", prefix)
		return err
	})
}
