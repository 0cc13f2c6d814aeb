package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/user"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"pg_integrity_exporter/internal/maintenance/window"
	"pg_integrity_exporter/internal/state"
)

// windowFlags are the flags of the commands about windows.
type windowFlags struct {
	*globals

	length time.Duration
	reason string
	by     string
	id     string
	output string
}

func addWindowOpen(app *kingpin.Application, g *globals) (string, command) {
	f := &windowFlags{globals: g}
	parent := app.GetCommand("window")
	if parent == nil {
		parent = app.Command("window", "Announce maintenance: until the announced end noise is muted, integrity alerts never.")
	}
	cmd := parent.Command("open", "Open a maintenance window, with or without a running exporter.")
	cmd.Flag("for", "How long; the window ends by itself then, whatever happens.").Default("1h").DurationVar(&f.length)
	cmd.Flag("reason", "What is going to be done.").Required().StringVar(&f.reason)
	cmd.Flag("by", "Who is responsible.").Default(currentUser()).StringVar(&f.by)
	return cmd.FullCommand(), f.open
}

func addWindowClose(app *kingpin.Application, g *globals) (string, command) {
	f := &windowFlags{globals: g}
	cmd := app.GetCommand("window").Command("close", "Close a maintenance window before its announced end; without ID every open one.")
	cmd.Flag("by", "Who is responsible.").Default(currentUser()).StringVar(&f.by)
	cmd.Arg("ID", "The window, as `window list` shows it.").StringVar(&f.id)
	return cmd.FullCommand(), f.close
}

func addWindowList(app *kingpin.Application, g *globals) (string, command) {
	f := &windowFlags{globals: g}
	cmd := app.GetCommand("window").Command("list", "List maintenance windows.")
	cmd.Flag("output", "Format: text or json.").Default("text").EnumVar(&f.output, "text", "json")
	return cmd.FullCommand(), f.list
}

func currentUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

// windowFiles are the files in which the windows are; a window is always
// written, also when no exporter has run here yet.
func (f *windowFlags) windowFiles() (*state.Files, error) {
	_, target, err := f.resolve()
	if err != nil {
		return nil, err
	}
	return state.OpenFiles(f.statePath, target.Name()), nil
}

func (f *windowFlags) open(context.Context) int {
	files, err := f.windowFiles()
	if err != nil {
		f.fail(err)
		return 1
	}
	w, err := window.Open(files, time.Now(), f.length, f.reason, f.by, "command")
	if err != nil {
		f.fail(err)
		return 1
	}
	fmt.Fprintf(f.stdout, "window %s is open until %s\n", w.ID, w.Until.Format(time.RFC3339))
	return 0
}

func (f *windowFlags) close(context.Context) int {
	files, err := f.windowFiles()
	if err != nil {
		f.fail(err)
		return 1
	}
	closed, err := window.Close(files, time.Now(), f.id, f.by)
	for _, w := range closed {
		fmt.Fprintf(f.stdout, "window %s is closed\n", w.ID)
	}
	if err != nil {
		f.fail(err)
		return 1
	}
	return 0
}

// listedWindow is a window as `window list --output=json` prints it.
type listedWindow struct {
	window.Window

	Active bool `json:"active"`
}

func (f *windowFlags) list(context.Context) int {
	files, err := f.windowFiles()
	if err != nil {
		f.fail(err)
		return 1
	}
	all, err := window.List(files)
	if err != nil {
		f.fail(err)
		return 1
	}
	now := time.Now()
	listed := []listedWindow{}
	for _, w := range all {
		listed = append(listed, listedWindow{w, w.Active(now)})
	}
	if f.output == "json" {
		encoder := json.NewEncoder(f.stdout)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(listed); err != nil {
			f.fail(fmt.Errorf("writing the result: %w", err))
			return 1
		}
		return 0
	}
	for _, w := range listed {
		condition := "closed"
		switch {
		case w.Active:
			condition = "active"
		case w.Closed.IsZero():
			condition = "not closed, its end has passed"
		}
		fmt.Fprintf(f.stdout, "%s  %s to %s  %s  by %s (%s): %s\n", w.ID, w.Opened.Format(time.RFC3339), w.Until.Format(time.RFC3339), condition, w.By, w.Source, w.Reason)
	}
	return 0
}
