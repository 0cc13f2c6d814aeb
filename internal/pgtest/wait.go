package pgtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"testing"
	"time"
)

// Await waits until a condition holds, and fails the test when it does not
// within a limit. It gives how long that took. PGTEST_PATIENCE multiplies the
// limits, for machines that do much else.
func Await(t testing.TB, what string, limit time.Duration, condition func() bool) time.Duration {
	t.Helper()
	limit *= time.Duration(patience())
	began := time.Now()
	for !condition() {
		if time.Since(began) > limit {
			t.Fatalf("after %s: not %s", limit, what)
		}
		<-time.After(20 * time.Millisecond)
	}
	return time.Since(began)
}

func patience() int {
	if factor, err := strconv.Atoi(os.Getenv("PGTEST_PATIENCE")); err == nil && factor > 1 {
		return factor
	}
	return 1
}

// Ports that servers are given. Operating systems give higher ones to clients and to
// whoever asks for any: such a port may be taken before its server has it, or while the
// server is down.
const firstPort, lastPort = 12000, 32000

// FreeAddress is an address on 127.0.0.1 that nothing listens on now.
func FreeAddress() (*net.TCPAddr, error) {
	var err error
	for range 100 {
		address := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: firstPort + rand.IntN(lastPort-firstPort)}
		var listener *net.TCPListener
		if listener, err = net.ListenTCP("tcp", address); err == nil {
			return address, listener.Close()
		}
	}
	return nil, fmt.Errorf("looking for a free port: %w", err)
}
