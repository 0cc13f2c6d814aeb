package alerts

import "time"

// findings ask what the checks have found besides damaged pages: one alert for
// each class and severity, so that no finding of any check goes unheard.
func findings() Group {
	const (
		subject = "{{ $value }} findings of check {{ $labels.check }}{{ if $labels.datname }} in database {{ $labels.datname }}{{ end }} ({{ $labels.instance }})"
		command = "pg_integrity_exporter check --check={{ $labels.check }}{{ if $labels.datname }} --database={{ $labels.datname }}{{ end }} names each object, the evidence and the first step."
	)
	of := func(class string, severity Severity) string {
		return `pgintegrity_check_findings{class="` + class + `", severity="` + string(severity) + `"} > 0`
	}
	return Group{Name: "postgres-findings", Alerts: []Alert{
		{
			Name: "PostgresCorruptionSuspected", Expr: of("corruption", Warning),
			For: 5 * time.Minute, Severity: Warning, Layer: Integrity,
			Summary:     "A check has found signs of damaged data.",
			Description: subject + " may be damage.",
			Impact:      "Perhaps none yet: the evidence is not enough to call it corruption.",
			Action:      command,
		},
		{
			Name: "PostgresDataRuleBroken", Expr: of("data_rule", Critical),
			KeepFiringFor: 15 * time.Minute, Severity: Critical, Layer: Integrity, Audience: Application, Inform: true,
			Summary:     "Data breaks a rule that must always hold.",
			Description: subject + ": a constraint, a total or a sealed record does not hold.",
			Impact:      "Figures that are computed from this data are wrong, and who relies on them decides wrongly.",
			Action:      command,
		},
		{
			Name: "PostgresDataRuleBroken", Expr: of("data_rule", Warning),
			For: 5 * time.Minute, Severity: Warning, Layer: Integrity, Audience: Application,
			Summary:     "Data breaks a rule that should hold.",
			Description: subject + ": rows do not obey what the schema or the configuration says.",
			Impact:      "Some rows are not what programs expect; later statements may fail on them.",
			Action:      command,
		},
		{
			Name: "PostgresDrift", Expr: of("drift", Critical),
			KeepFiringFor: 15 * time.Minute, Severity: Critical, Layer: Integrity,
			Summary:     "A safeguard of the database is gone or was changed.",
			Description: subject + ": the server is not what was accepted as its baseline.",
			Impact:      "A constraint, trigger, right or setting that protects the data may not be in force.",
			Action:      "pg_integrity_exporter baseline diff shows what changed; put it back, or accept it with baseline accept.",
		},
		{
			Name: "PostgresDrift", Expr: of("drift", Warning),
			For: 15 * time.Minute, Severity: Warning, Layer: Integrity,
			Summary:     "The database is not what was accepted as its baseline.",
			Description: subject + ": schema, settings, roles or rights differ from the baseline.",
			Impact:      "Perhaps none: somebody made a change that nobody has accepted.",
			Action:      "pg_integrity_exporter baseline diff shows what changed; put it back, or accept it with baseline accept.",
		},
		{
			Name: "PostgresUnsafeConfiguration", Expr: of("unsafe_setting", Critical),
			KeepFiringFor: 5 * time.Minute, Severity: Critical, Layer: Integrity,
			Summary:     "The configuration lets data be destroyed or damage be hidden.",
			Description: subject + ".",
			Impact:      "A crash, an error or a mistake can now destroy data, or damage goes unnoticed.",
			Action:      command,
		},
		{
			Name: "PostgresUnsafeConfiguration", Expr: of("unsafe_setting", Warning),
			For: 15 * time.Minute, Severity: Warning, Layer: Integrity,
			Summary:     "The configuration is riskier than it need be.",
			Description: subject + ".",
			Impact:      "Nothing is lost yet; protection or evidence will be missing when it is needed.",
			Action:      command,
		},
		{
			Name: "PostgresRecoverabilityAtRisk", Expr: of("recoverability", Warning),
			For: 15 * time.Minute, Severity: Warning, Layer: Recovery,
			Summary:     "Bringing data back would be harder than it need be.",
			Description: subject + ": a replication slot has lost its WAL, or the history of the timeline is missing or damaged.",
			Impact:      "None until the next restart, fail-over or loss; then it takes longer or loses more.",
			Action:      command,
		},
		{
			Name: "PostgresLeftover", Expr: `pgintegrity_check_findings{class="leftover", severity!="info"} > 0`,
			For: time.Hour, Severity: Warning, Layer: Integrity, NeedsDatabase: true,
			Summary:     "Interrupted maintenance left something behind.",
			Description: subject + ", for example an index that is not valid.",
			Impact:      "It costs space and writes, or a constraint or index is not in force as people believe.",
			Action:      command,
		},
		{
			Name: "PostgresFindingsTruncated", Expr: "pgintegrity_finding_info_truncated > 0",
			For: 5 * time.Minute, Severity: Warning, Layer: Monitoring,
			Summary:     "More objects have findings than are shown one by one.",
			Description: "{{ $value }} more objects of the server of {{ $labels.instance }} have findings; no alert names them.",
			Impact:      "The pages do not tell the whole extent of the damage.",
			Action:      "pg_integrity_exporter check --output=text lists all of them; limits.findings in the configuration shows more.",
		},
	}}
}
