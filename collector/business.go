package collector

import (
	"time"

	"pg_integrity_exporter/internal/business"
	"pg_integrity_exporter/internal/state"
)

var (
	businessTransactions = &Family{
		Name: Namespace + "business_transactions", Type: Gauge, Labels: []string{"transaction", "outcome"},
		Help:   "Business transactions by outcome, as the configured SQL last counted them.",
		Source: "configuration: transactions.sql",
	}
	businessFailureRatio = &Family{
		Name: Namespace + "business_transaction_failure_ratio", Type: Gauge, Labels: []string{"transaction"},
		Help:   "Share of failed business transactions of those that were done or failed (0 to 1); 0 when there were none.",
		Source: "configuration: transactions.sql",
	}
	businessMaxFailureRatio = &Family{
		Name: Namespace + "business_transaction_max_failure_ratio", Type: Gauge, Labels: []string{"transaction"},
		Help:   "Share of failed business transactions that is still normal (configuration: transactions.max_failure_ratio).",
		Source: "configuration",
	}
	businessMaxStuck = &Family{
		Name: Namespace + "business_transaction_max_stuck", Type: Gauge, Labels: []string{"transaction"},
		Help:   "Number of stuck business transactions that is still normal (configuration: transactions.max_stuck).",
		Source: "configuration",
	}
	businessSilence = &Family{
		Name: Namespace + "business_transaction_silence_seconds", Type: Gauge, Labels: []string{"transaction"},
		Help:   "How long no business transaction was done although the working hours expect some; 0 outside of them, and while it is not known when one was last done.",
		Source: "configuration: transactions.sql, working_hours",
	}
	businessMaxSilence = &Family{
		Name: Namespace + "business_transaction_max_silence_seconds", Type: Gauge, Labels: []string{"transaction"},
		Help:   "How long no business transaction need be done within the working hours; 0 is for ever (configuration: transactions.max_silence).",
		Source: "configuration",
	}
	businessLastDone = &Family{
		Name: Namespace + "business_transaction_last_done_timestamp_seconds", Type: Gauge, Labels: []string{"transaction"},
		Help:   "When a business transaction was last done, in seconds since the epoch; 0 is not known.",
		Source: "configuration: transactions.sql",
	}
	businessUp = &Family{
		Name: Namespace + "business_transaction_up", Type: Gauge, Labels: []string{"transaction"},
		Help:   "Whether the configured SQL could be run the last time (1).",
		Source: "configuration: transactions.sql",
	}
	businessLastSuccess = &Family{
		Name: Namespace + "business_transaction_last_success_timestamp_seconds", Type: Gauge, Labels: []string{"transaction"},
		Help:   "When the configured SQL last counted, in seconds since the epoch; 0 is never since the exporter started.",
		Source: "configuration: transactions.sql",
	}
)

// businessCollector shows what business transactions came to. It asks the server
// nothing.
func businessCollector(counts func() []business.Count) Collector {
	return Collector{
		Name: "business",
		Help: "Business transactions by outcome (configuration: transactions).",
		Families: []*Family{
			businessTransactions, businessFailureRatio, businessMaxFailureRatio, businessMaxStuck, businessSilence, businessMaxSilence,
			businessLastDone, businessUp, businessLastSuccess,
		},
		Snapshot: func(_ *state.Snapshot, sink *Sink) {
			if counts == nil {
				return
			}
			for _, c := range counts() {
				emitBusiness(sink, c, time.Now())
			}
		},
	}
}

func emitBusiness(sink *Sink, c business.Count, now time.Time) {
	t := c.Transaction
	sink.Add(businessMaxFailureRatio, t.MaxFailureRatio, t.Name)
	sink.Add(businessMaxStuck, float64(t.MaxStuck), t.Name)
	sink.Add(businessMaxSilence, t.MaxSilence.Seconds(), t.Name)
	sink.AddBool(businessUp, c.Up, t.Name)
	sink.Add(businessLastSuccess, timestamp(c.LastSuccess), t.Name)
	sink.Add(businessLastDone, timestamp(c.LastDone), t.Name)
	for _, outcome := range business.Outcomes() {
		sink.Add(businessTransactions, c.ByOutcome[outcome], t.Name, string(outcome))
	}
	sink.Add(businessFailureRatio, c.FailureRatio(), t.Name)
	sink.Add(businessSilence, c.Silence(now).Seconds(), t.Name)
}
