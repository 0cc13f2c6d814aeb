package process

import (
	"context"
	"runtime/debug"
	"time"
)

// trimInterval is how often what nobody has used lately is given back.
const trimInterval = time.Minute

// Trim gives memory back to the system, again and again until ctx ends: what the
// start or a check needed and nothing needs now. A garbage collector keeps it for
// the next time, and the system every part of the program that ever ran; an exporter
// shares its machine with a server, and checks run a few times a day.
func Trim(ctx context.Context) {
	ticker := time.NewTicker(trimInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			debug.FreeOSMemory()
			unmapProgram()
		case <-ctx.Done():
			return
		}
	}
}
