// Command composecheck loads the compose files named on its command line as one project, all
// profiles included, as `docker compose config --quiet` does, on machines without Docker: schema,
// interpolation from the environment, and references between services, volumes and configs. Beyond
// that, every image that is not built here must be pinned by its digest. It prints what is wrong
// and exits with 1.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	if err := check(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "composecheck:", err)
		os.Exit(1)
	}
}

func check(files []string) error {
	options, err := cli.NewProjectOptions(files, cli.WithOsEnv, cli.WithProfiles([]string{"*"}))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	for name, service := range project.Services {
		if service.Build == nil && service.Image != ours && !strings.Contains(service.Image, "@sha256:") {
			return fmt.Errorf("service %s: the image %s is not pinned by its digest", name, service.Image)
		}
	}
	return nil
}

// ours is the image that the Dockerfile builds.
const ours = "onceshop"
