// Command promcheck parses every expression of the alert rules and Grafana dashboards named on its
// command line. It prints what is wrong and exits with 1.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/VictoriaMetrics/metricsql"
	"sigs.k8s.io/yaml"
)

// variables are Grafana's, which it replaces before it asks Prometheus.
var variables = strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*")

func main() {
	failed := false
	for _, file := range os.Args[1:] {
		if err := check(file); err != nil {
			fmt.Fprintf(os.Stderr, "promcheck: %s:\n%v\n", file, err)
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
	var document any
	if err := yaml.Unmarshal(text, &document); err != nil { // JSON is YAML, too
		return err
	}
	var wrong []error
	found := 0
	walk(document, func(expr string) {
		found++
		if _, err := metricsql.Parse(variables.Replace(expr)); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", expr, err))
		}
	})
	if found == 0 {
		wrong = append(wrong, errors.New("no expression"))
	}
	return errors.Join(wrong...)
}

// walk calls found with each text named expr, at any depth.
func walk(value any, found func(expr string)) {
	switch value := value.(type) {
	case []any:
		for _, element := range value {
			walk(element, found)
		}
	case map[string]any:
		for name, element := range value {
			if expr, isText := element.(string); name == "expr" && isText {
				found(expr)
			} else {
				walk(element, found)
			}
		}
	}
}
