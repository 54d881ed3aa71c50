// Command fork makes a shop of one's own from this repository, in a new folder: another module
// path, name and color, a first product and a first migration, without the wings that it does not
// need. docs/fork.md has the way from there.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

const usage = `usage: go run ./scripts/fork -module PATH -name NAME [flags] FOLDER

Copies this repository into FOLDER, which must not exist, and makes it another shop. Run it in the
root of the repository.

`

// shop is what is asked for.
type shop struct {
	module, name, color, product string
	without                      []string
	folder                       string
}

func main() {
	s, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fork:", err)
		os.Exit(2)
	}
	if err := s.fork("."); err != nil {
		fmt.Fprintln(os.Stderr, "fork:", err)
		os.Exit(1)
	}
	fmt.Printf(`%s is in %s. Next:
    cd %s
    git init && git add -A && git commit -m "Fork onceshop"
    go vet ./... && go test ./...
docs/fork.md goes on from there.
`, s.name, s.folder, s.folder)
}

func parse(args []string) (s shop, err error) {
	flags := flag.NewFlagSet("fork", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&s.module, "module", "", "the new `path` of the module, such as example.com/kettle")
	flags.StringVar(&s.name, "name", "", "the shop's `name`, the default of SHOP_NAME")
	flags.StringVar(&s.color, "color", "", "the shop's `color`, such as #0b6e4f")
	flags.StringVar(&s.product, "product", "", "the first `product`: SKU,NAME,PRICE,CURRENCY")
	without := flags.String("without", "", "the `wings` to leave out: demo, proof, or demo,proof")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if *without != "" {
		s.without = strings.Split(*without, ",")
	}
	if flags.NArg() != 1 {
		return s, errors.New("name one folder for the new shop; -help explains the rest")
	}
	s.folder = flags.Arg(0)
	return s, s.validate()
}

var (
	modulePath = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*(/[A-Za-z0-9._~-]+)*$`)
	// shopName leaves out what ends a struct tag or a line of YAML.
	shopName = regexp.MustCompile("^[^\\pC\"`\\\\]{1,40}$")
	hexColor = regexp.MustCompile(`^#[0-9a-fA-F]{6}$`)
	// firstProduct leaves out names with quotes, which are easier to change in the catalog.
	firstProduct = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]{0,63}),([^,\pC"\\]+),([\d.]+),([A-Z]{3})$`)
)

func (s shop) validate() error {
	switch {
	case !modulePath.MatchString(s.module):
		return fmt.Errorf("-module %q is not a module path such as example.com/kettle", s.module)
	case !shopName.MatchString(s.name) || s.slug() == "":
		return fmt.Errorf("-name %q must have 1 to 40 characters, one of them a letter of a to z; no quotes", s.name)
	case s.color != "" && !hexColor.MatchString(s.color):
		return fmt.Errorf("-color %q is not a color such as #0b6e4f", s.color)
	case s.product != "" && !firstProduct.MatchString(s.product):
		return fmt.Errorf("-product %q is not SKU,NAME,PRICE,CURRENCY, such as KETTLE-1,The Kettle,49.00,EUR",
			s.product)
	}
	for _, wing := range s.without {
		if !slices.Contains(wings, wing) {
			return fmt.Errorf("-without %q: the wings are demo and proof", wing)
		}
	}
	return nil
}

// slug is the name as it can be a folder, a database or a part of a file's name.
func (s shop) slug() string {
	lower := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return ' '
	}, strings.ToLower(s.name))
	slug := strings.Join(strings.Fields(lower), "_")
	return strings.TrimLeft(slug, "0123456789_")
}
