package schedule

import (
	"hash/fnv"
	"time"
)

// firstRunSpread is the time over which first runs are spread after a start.
const firstRunSpread = 10 * time.Second

// slots are the times at which a check with an interval is due in one database.
type slots struct {
	interval time.Duration
	offset   time.Duration
}

// newSlots shifts the slots of a database by a hash that is the same in every
// process. Checks of one database with the same interval are due together: the
// deep ones rely on what the harmless ones have just found out.
func newSlots(database string, interval time.Duration) slots {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(database))
	return slots{interval: interval, offset: time.Duration(hash.Sum64() % uint64(interval))}
}

// latest is the last slot at or before a moment.
func (s slots) latest(now time.Time) time.Time {
	sinceEpoch := time.Duration(now.UnixNano()) - s.offset
	return now.Add(-(sinceEpoch % s.interval))
}

// due says whether a check that last ran at lastRun (zero is never) is due, in
// a scheduler that started at started. A lastRun in the future, after the
// clock was set back, does not silence the check for ever.
func (s slots) due(now, lastRun, started time.Time) bool {
	if lastRun.IsZero() || lastRun.After(now.Add(s.interval)) {
		return !now.Before(started.Add(s.offset % firstRunSpread))
	}
	return lastRun.Before(s.latest(now))
}

// missed counts the slots that passed while a run from started to finished
// took place.
func (s slots) missed(started, finished time.Time) int {
	return int(s.latest(finished).Sub(s.latest(started)) / s.interval)
}
