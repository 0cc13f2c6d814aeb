package main

import (
	"context"
	"fmt"

	"github.com/alecthomas/kingpin/v2"
)

func addConfigCheck(app *kingpin.Application, g *globals) (string, command) {
	cmd := app.Command("config", "Configuration.").Command("check", "Check the configuration file and the DSN, without connecting.")
	show := cmd.Flag("print", "Print the whole configuration, defaults included.").Bool()
	return cmd.FullCommand(), func(context.Context) int {
		validated, target, err := g.resolve()
		if err != nil {
			g.fail(err)
			return 1
		}
		if !*show {
			fmt.Fprintf(g.stdout, "The configuration is valid; the target is %s.\n", target.Name())
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
