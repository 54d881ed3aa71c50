// Command kubecheck decodes every object in the manifests named on its command line into the types
// of Kubernetes' API. Fields that do not exist, values of the wrong type and kinds that it does not
// know are errors. It needs no cluster. It prints what is wrong and exits with 1.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"sigs.k8s.io/yaml"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
)

// kinds makes an empty object of each kind that a manifest may have.
var kinds = map[string]func() any{
	"v1 Namespace":                       func() any { return new(core.Namespace) },
	"v1 Secret":                          func() any { return new(core.Secret) },
	"v1 Service":                         func() any { return new(core.Service) },
	"apps/v1 Deployment":                 func() any { return new(apps.Deployment) },
	"batch/v1 Job":                       func() any { return new(batch.Job) },
	"networking.k8s.io/v1 NetworkPolicy": func() any { return new(networking.NetworkPolicy) },
	"policy/v1 PodDisruptionBudget":      func() any { return new(policy.PodDisruptionBudget) },
}

func main() {
	failed := false
	for _, file := range os.Args[1:] {
		if err := check(file); err != nil {
			fmt.Fprintf(os.Stderr, "kubecheck: %s: %v\n", file, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

func check(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var wrong []error
	for _, object := range bytes.Split(text, []byte("\n---\n")) {
		var about struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal(object, &about); err != nil {
			return err
		}
		empty, known := kinds[about.APIVersion+" "+about.Kind]
		if !known {
			wrong = append(wrong, fmt.Errorf("unknown kind: %s %s", about.APIVersion, about.Kind))
			continue
		}
		if err := yaml.UnmarshalStrict(object, empty()); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", about.Kind, err))
		}
	}
	return errors.Join(wrong...)
}
