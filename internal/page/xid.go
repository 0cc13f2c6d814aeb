package page

import "fmt"

// Status is how a transaction ended, as pg_xact has it.
type Status int

// The ends of a transaction. Unknown is one that may still run, or whose end
// may not be on disk yet. Crashed is one that ended without commit or abort.
const (
	Unknown Status = iota
	Crashed
	Committed
	Aborted
)

// String is the status in a message.
func (s Status) String() string {
	switch s {
	case Crashed:
		return "neither committed nor aborted"
	case Committed:
		return "committed"
	case Aborted:
		return "aborted"
	default:
		return "unknown"
	}
}

// firstNormal is FirstNormalTransactionId: those below are special.
const firstNormal = 3

// XIDs is what is known of transactions. A nil one knows nothing, and a limit
// of 0 is unknown.
type XIDs struct {
	// Next is the transaction that has not begun yet; Oldest is the oldest one that
	// a tuple may still have.
	Next, Oldest uint32
	// NextMulti and OldestMulti are the same for multixacts.
	NextMulti, OldestMulti uint32
	// Status is how a transaction ended, by pg_xact.
	Status func(xid uint32) Status
}

func precedes(a, b uint32) bool { return int32(a-b) < 0 }

// beyond says that a transaction has not begun yet.
func (x *XIDs) beyond(xid uint32) bool {
	return x != nil && x.Next != 0 && xid >= firstNormal && !precedes(xid, x.Next)
}

// before says that a transaction is older than any that may still be named.
func (x *XIDs) before(xid uint32) bool {
	return x != nil && x.Oldest != 0 && xid >= firstNormal && precedes(xid, x.Oldest)
}

func (x *XIDs) status(xid uint32) Status {
	if x == nil || x.Status == nil || xid < firstNormal {
		return Unknown
	}
	return x.Status(xid)
}

// inserted says that the transaction that made a tuple has committed.
func (x *XIDs) inserted(t tuple) bool {
	switch {
	case t.mask&xminCommitted != 0, t.xmin == 1, t.xmin == 2:
		return true
	case t.aborted():
		return false
	}
	return x.status(t.xmin) == Committed
}

// ended says that the transaction that ended a tuple has committed.
func (x *XIDs) ended(t tuple) bool {
	return t.mask&xmaxCommitted != 0 || x.status(t.xmax) == Committed
}

// problem says what is impossible with the transactions of a tuple.
func (x *XIDs) problem(t tuple) string {
	if x == nil {
		return ""
	}
	switch {
	case x.beyond(t.xmin):
		return fmt.Sprintf("the tuple was made by transaction %d, which has not begun yet (xmin)", t.xmin)
	case !t.frozen() && x.before(t.xmin):
		return fmt.Sprintf("the tuple was made by transaction %d, which is older than the oldest that is kept, and it is not frozen (xmin)", t.xmin)
	}
	if t.mask&xmaxIsMulti != 0 {
		return x.multiProblem(t)
	}
	switch {
	case x.beyond(t.xmax):
		return fmt.Sprintf("the tuple was ended or locked by transaction %d, which has not begun yet (xmax)", t.xmax)
	case t.mask&xmaxInvalid == 0 && x.before(t.xmax):
		return fmt.Sprintf("the tuple was ended or locked by transaction %d, which is older than the oldest that is kept (xmax)", t.xmax)
	}
	return x.hintProblem(t)
}

func (x *XIDs) multiProblem(t tuple) string {
	switch {
	case t.xmax == 0 && t.mask&xmaxInvalid == 0:
		return "xmax is a multixact, but 0"
	case x.NextMulti != 0 && t.xmax != 0 && !precedes(t.xmax, x.NextMulti):
		return fmt.Sprintf("the tuple was locked by multixact %d, which has not begun yet (xmax)", t.xmax)
	case x.OldestMulti != 0 && t.xmax != 0 && t.mask&xmaxInvalid == 0 && precedes(t.xmax, x.OldestMulti):
		return fmt.Sprintf("the tuple was locked by multixact %d, which is older than the oldest that is kept (xmax)", t.xmax)
	}
	return x.hintProblem(t)
}

// hintProblem compares what a tuple says of its transactions with pg_xact: a
// row that says so falsely appears or disappears.
func (x *XIDs) hintProblem(t tuple) string {
	if x.Status == nil {
		return ""
	}
	if t.frozen() && t.xmin >= firstNormal && !x.before(t.xmin) {
		if status := x.status(t.xmin); status == Aborted || status == Crashed {
			return fmt.Sprintf("the tuple is frozen, but pg_xact says that transaction %d, which made it, has %s: a row that must not be seen", t.xmin, status)
		}
	}
	if !t.frozen() && t.mask&xminFrozen != 0 {
		switch status := x.status(t.xmin); {
		case t.mask&xminCommitted != 0 && (status == Aborted || status == Crashed):
			return fmt.Sprintf("the tuple says that transaction %d, which made it, has committed, but pg_xact says %s: a row that must not be seen", t.xmin, status)
		case t.mask&xminInvalid != 0 && status == Committed:
			return fmt.Sprintf("the tuple says that transaction %d, which made it, has aborted, but pg_xact says %s: a lost row", t.xmin, status)
		}
	}
	if t.mask&xmaxIsMulti != 0 || t.lockOnly() || t.mask&(xmaxCommitted|xmaxInvalid) == 0 {
		return ""
	}
	switch status := x.status(t.xmax); {
	case t.mask&xmaxCommitted != 0 && (status == Aborted || status == Crashed):
		return fmt.Sprintf("the tuple says that transaction %d, which ended it, has committed, but pg_xact says %s: a lost row", t.xmax, status)
	case t.mask&xmaxInvalid != 0 && status == Committed:
		return fmt.Sprintf("the tuple says that transaction %d, which ended it, has not committed, but pg_xact says %s: a row that came back", t.xmax, status)
	}
	return ""
}
