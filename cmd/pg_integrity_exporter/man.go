package main

import (
	"strings"
	"sync"
	"text/template"

	"github.com/alecthomas/kingpin/v2"
)

// useTemplates makes --help-man print our page instead of kingpin's, which lacks
// exit codes, files and examples, and the completion scripts ours: kingpin takes
// a command that is half typed for an argument of the default command.
var useTemplates = sync.OnceFunc(func() {
	kingpin.ManPageTemplate = manPage
	kingpin.BashCompletionTemplate, kingpin.ZshCompletionTemplate = bashCompletion, zshCompletion
})

// The completion scripts ask the program what may follow the words before the
// one that is being typed; that one counts only when it begins like a flag.
const (
	bashCompletion = `# bash completion for {{.App.Name}}
_{{.App.Name}}_complete() {
    local current=${COMP_WORDS[COMP_CWORD]} typed=() word
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ $word == "=" ]] || typed+=("$word")
    done
    [[ $current == "=" ]] && current=""
    [[ $current == -* ]] && typed+=("$current")
    COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" --completion-bash "${typed[@]}")" -- "$current"))
}
complete -F _{{.App.Name}}_complete -o default {{.App.Name}}
`
	zshCompletion = `#compdef {{.App.Name}}
_{{.App.Name}}() {
    local -a typed matches
    typed=("${(@)words[2,CURRENT-1]}")
    if compset -P 1 '(#b)(--[^=]##)='; then
        typed+=("${IPREFIX%=}")
    elif [[ $words[CURRENT] == -* ]]; then
        typed+=("$words[CURRENT]")
    fi
    matches=(${(f)"$("$words[1]" --completion-bash "${(@)typed}")"})
    compadd -a matches || _files
}
# The first call loads this file.
if [[ $funcstack[1] == _{{.App.Name}} ]]; then
    _{{.App.Name}} "$@"
else
    compdef _{{.App.Name}} {{.App.Name}}
fi
`
)

// manFuncs are what the page needs besides kingpin's own functions.
var manFuncs = template.FuncMap{"roff": roff}

// roff keeps what is text from being taken for a request or an escape.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}

// manPage is the manual page, in the form of man(7).
const manPage = `{{define "flags" -}}
{{range .Flags}}{{if not .Hidden -}}
.TP
\fB{{if .Short}}\-{{.Short|Char}}, {{end}}\-\-{{roff .Name}}{{if not .IsBoolFlag}}={{roff .FormatPlaceHolder}}{{end}}\fR
{{roff .Help}}
{{end}}{{end}}{{end -}}
{{define "arguments"}}{{range .Args}}{{if not .Hidden}} {{if not .Required}}[{{end}}{{.Name|roff}}{{if .Value|IsCumulative}}...{{end}}{{if not .Required}}]{{end}}{{end}}{{end}}{{end -}}
.TH PG_INTEGRITY_EXPORTER 1 "" "pg_integrity_exporter" "User Commands"
.SH NAME
pg_integrity_exporter \- tells Prometheus that the data of a PostgreSQL server is being damaged
.SH SYNOPSIS
\fBpg_integrity_exporter\fR [\fIflags\fR] [\fIcommand\fR] [\fIflags and arguments of the command\fR]
.SH DESCRIPTION
Watches one or more PostgreSQL servers and tells Prometheus, within seconds, that data is being damaged, what is damaged, and why.
Other commands run the checks once, prove backups, guard maintenance and draft reports of incidents.
Without a command it is \fBserve\fR.
.PP
Sessions are read\-only. Nothing is written to a watched server unless \fBguard\fR was told to run a script.
.SH OPTIONS
These are understood by every command.
{{template "flags" .App -}}
.SH COMMANDS
{{range .App.FlattenedCommands}}{{if not .Hidden -}}
.SS "{{roff .FullCommand}}{{template "arguments" .}}"
{{roff .Help}}
{{template "flags" . -}}
{{end}}{{end -}}
.SH EXIT STATUS
.TP
\fBcheck\fR
0 clean, 1 findings of severity warning or critical, 2 something could not be checked
.TP
\fBbaseline diff\fR
0 as accepted, 1 differs, 2 could not be compared
.TP
\fBdrill\fR
0 proved, 1 not
.TP
\fBguard\fR
0 done and verified, 1 failed and rolled back, 2 refused beforehand, 3 failed and NOT rolled back
.TP
\fBguard status\fR
0 all ended, 1 one is under way, 3 one was interrupted, or was not rolled back and not settled
.TP
\fBguard recover\fR
0 recovered and proved, 1 recovered and not proved, 2 refused, 3 not recovered
.TP
\fBincident list\fR
1 says that an update is overdue
.TP
any command
2 for flags and arguments that make no sense
.SH ENVIRONMENT
.TP
\fBDATA_SOURCE_NAME\fR
The server, when neither \-\-dsn nor the configuration file names it.
.TP
\fBDATA_SOURCE_URI\fR, \fBDATA_SOURCE_USER\fR, \fBDATA_SOURCE_PASS\fR
The same in parts. Each of them followed by _FILE names a file that holds the value.
.TP
\fBPGHOST\fR, \fBPGPORT\fR, \fBPGUSER\fR, \fBPGPASSFILE\fR, \fBPGSERVICE\fR and the others of libpq
Used when nothing above names the server.
.TP
\fBPG_INTEGRITY_EXPORTER_\fIFLAG\fR
Every flag, in capitals, with _ instead of dots and dashes; a flag on the command line wins.
.TP
\fBSTATE_DIRECTORY\fR, \fBXDG_STATE_HOME\fR
Where the state is without \-\-state.path.
.TP
\fBNO_COLOR\fR, \fBTERM\fR
With NO_COLOR, or TERM=dumb, nothing is coloured. Colours and progress are for terminals only.
.SH FILES
.TP
\fIpg_integrity_exporter.yml\fR
The configuration named by \-\-config.file; \fBconfig check \-\-print\fR prints it with every default.
.TP
\fI/var/lib/pg_integrity_exporter\fR, \fI~/.local/state/pg_integrity_exporter\fR
Results, findings, positions in logs, windows and reports, for root and for others.
.TP
\fI~/.pgpass\fR, \fI~/.pg_service.conf\fR
Passwords and services, as libpq reads them.
.SH EXAMPLES
.TP
Watch a server:
pg_integrity_exporter \-\-dsn=postgresql://monitor@db/postgres \-\-config.file=/etc/pg_integrity_exporter.yml
.TP
Is this table damaged?
pg_integrity_exporter check \-\-dsn=postgresql://monitor@db/postgres \-\-database=erp \-\-relation=ledger.postings
.TP
In a pipeline:
pg_integrity_exporter check \-\-output=junit >integrity.xml
.TP
A server that will not start:
pg_integrity_exporter check \-\-offline \-\-pgdata=/var/lib/postgresql/15/main
.TP
Would the backup come back?
pg_integrity_exporter drill \-\-repository=nightly
.TP
Maintenance with a way back:
pg_integrity_exporter guard \-\-sql=maintenance.sql
.TP
Complete commands and flags in bash and zsh:
eval "$(pg_integrity_exporter \-\-completion\-script\-bash)"
.SH SEE ALSO
\fBpsql\fR(1), \fBpg_amcheck\fR(1), \fBpg_checksums\fR(1), \fBpg_verifybackup\fR(1)
`
