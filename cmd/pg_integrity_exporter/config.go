package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/alecthomas/kingpin/v2"

	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/exporter"
)

// maxTargetsTold is how many targets the command names.
const maxTargetsTold = 10

func addConfigCheck(app *kingpin.Application, g *globals) (string, command) {
	cmd := app.Command("config", "Configuration.").Command("check", "Check the configuration file and all DSNs, without connecting.")
	show := cmd.Flag("print", "Print the whole configuration, defaults included.").Bool()
	return cmd.FullCommand(), func(context.Context) int {
		validated, targets, err := g.resolveAll()
		if err != nil {
			g.fail(err)
			return 1
		}
		if !*show {
			verb, more := " is", ""
			if len(targets) > 1 {
				verb = "s are"
			}
			if n := len(targets); n > maxTargetsTold {
				targets, more = targets[:maxTargetsTold], fmt.Sprintf(" and %d more", n-maxTargetsTold)
			}
			fmt.Fprintf(g.stdout, "The configuration is valid; the target%s %s%s.\n", verb, strings.Join(targets, ", "), more)
			return 0
		}
		text, err := validated.YAML()
		if err != nil {
			g.fail(err)
			return 1
		}
		// A closed standard output is the reader's choice.
		_, _ = g.stdout.Write(text)
		return 0
	}
}

// resolveAll is resolve for all targets of the configuration unless one is named.
func (g *globals) resolveAll() (config.Validated, []string, error) {
	if g.target == "" {
		return exporter.Targets(g.dsn, g.configFile, g.environment)
	}
	validated, target, err := g.resolve()
	if err != nil {
		return validated, nil, err
	}
	return validated, []string{target.Name()}, nil
}
