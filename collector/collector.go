package collector

import (
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/business"
	"pg_integrity_exporter/internal/incident"
	"pg_integrity_exporter/internal/maintenance/activity"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/recovery"
	"pg_integrity_exporter/internal/state"
)

// Collector is one part of a scrape. It has either SQL and Scan, and then
// needs the server, or Snapshot or Kept or both, and then needs only what the
// exporter already knows.
type Collector struct {
	// Name is the collector's file, flag and value of the label collector.
	Name string
	// Help says in one line what it collects; it is the flag's help.
	Help string
	// Families are all the families it may emit.
	Families []*Family
	// NotApplicable gives the reason why the collector has nothing to say about
	// a server like this, or "". Nil is always applicable.
	NotApplicable func(facts pg.Facts) string
	// SQL is the one statement that the collector sends to this server version.
	SQL func(facts pg.Facts) string
	// Scan turns the rows of SQL into samples. It must read to the end and
	// return the error of the rows.
	Scan func(rows pgx.Rows, sink *Sink) error
	// Snapshot turns what the exporter already knows into samples.
	Snapshot func(snapshot *state.Snapshot, sink *Sink)
	// Kept is Snapshot for samples that are the same for as long as
	// Snapshot.Revision is. It gives no sample of a family that Snapshot gives some
	// of.
	Kept func(snapshot *state.Snapshot, sink *Sink)
	// Leader says that of several exporters of one server only the leader knows.
	Leader bool
}

// Sources is what collectors need besides the server.
type Sources struct {
	// Snapshot is the state that the log reader and the checks left.
	Snapshot func() *state.Snapshot
	// Accumulate turns a server counter that a crash or pg_stat_reset() sets
	// back into one that only rises, also across restarts of the exporter.
	Accumulate func(counter string, raw float64) float64
	// Reloaded says whether the configuration was last reloaded, and when that
	// last succeeded.
	Reloaded func() (ok bool, success time.Time)
	// Leads says whether this is the leader of several exporters of one server;
	// nil is the only one.
	Leads func() bool
	// Observe is told where the WAL of the primary is; nil is nobody.
	Observe func(recovery.Sample)
	// Recovery is what is known of the repositories; nil is nothing.
	Recovery func() []recovery.Status
	// Business is what business transactions came to; nil is none.
	Business func() []business.Count
	// Incidents says whether people wait for news; nil is nobody.
	Incidents func() (incident.Status, error)
	// Spent is what the exporter's sessions have cost the server; nil is not known.
	Spent func() []pg.Spent
	// SpentLimit is limits.watch_share; 0 is none.
	SpentLimit float64
	// Maintenance is what is known of maintenance, its windows and the guard; nil
	// is nothing.
	Maintenance func() activity.Status
}

func (s Sources) leads() bool { return s.Leads == nil || s.Leads() }

// All lists the collectors, by name.
func All(sources Sources) []Collector {
	return []Collector{
		activityCollector(),
		archiverCollector(sources.Observe),
		businessCollector(sources.Business),
		checkCollector(),
		costCollector(sources.Spent, sources.SpentLimit),
		databaseCollector(sources.Accumulate),
		databaseConflictsCollector(),
		horizonCollector(),
		incidentCollector(sources.Incidents),
		locksCollector(),
		logCollector(),
		maintenanceCollector(sources.Maintenance),
		recoveryCollector(sources.Recovery),
		replicationCollector(),
		serverCollector(),
		slotsCollector(),
		standbyCollector(),
		stateCollector(sources.Reloaded, sources.leads),
		subscriptionsCollector(),
		timelineCollector(),
		wraparoundCollector(),
	}
}

// Families lists every metric family of the exporter's own namespace, those of
// the scrape itself included, each once and by name.
func Families() []*Family {
	var families []*Family
	seen := make(map[string]bool)
	add := func(list []*Family) {
		for _, family := range list {
			if !seen[family.Name] {
				seen[family.Name] = true
				families = append(families, family)
			}
		}
	}
	add(scrapeFamilies)
	for _, c := range All(Sources{}) {
		add(c.Families)
	}
	sortFamilies(families)
	return families
}
