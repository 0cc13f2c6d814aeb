package chaos

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"testing"

	"pg_integrity_exporter/internal/exposition"
	"pg_integrity_exporter/internal/web"
)

// message is one message of the protocol, with its length.
func message(kind byte, body ...byte) []byte {
	m := append([]byte{kind, 0, 0, 0, 0}, body...)
	binary.BigEndian.PutUint32(m[1:], uint32(len(body)+4))
	return m
}

// claimed is a message that says that it is of a length which it is not of.
func claimed(kind byte, length uint32) []byte {
	m := message(kind)
	binary.BigEndian.PutUint32(m[1:], length)
	return m
}

var (
	authenticated = message('R', 0, 0, 0, 0)
	ready         = message('Z', 'I')
	greeting      = join(authenticated, message('K', 0, 0, 0, 1, 0, 0, 0, 2), ready)
)

func join(parts ...[]byte) []byte {
	var all []byte
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

// scripts are what servers say that are none, or that mean no good. The first
// part answers the start of the session, the second everything that comes then,
// again and again.
func scripts() map[string][2][]byte {
	row := message('D', 0, 1, 0, 0, 0, 4, 'e', 'v', 'i', 'l')
	return map[string][2][]byte{
		"nothing, then the end":            {nil, nil},
		"text":                             {[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), nil},
		"an unknown message":               {message('?', 1, 2, 3), nil},
		"a length of zero":                 {claimed('R', 0), nil},
		"a negative length":                {claimed('R', 0x80000000), nil},
		"a length of 2 GiB":                {claimed('R', 0x7fffffff), nil},
		"a row of 1 GiB":                   {greeting, claimed('D', 1<<30)},
		"an error without fields":          {message('E'), nil},
		"an error that does not end":       {message('E', 'M', 'x'), nil},
		"an unknown login":                 {message('R', 0, 0, 0, 99), nil},
		"SCRAM without mechanisms":         {message('R', 0, 0, 0, 10, 0), nil},
		"SCRAM with a broken challenge":    {join(message('R', 0, 0, 0, 10, 'S', 'C', 'R', 'A', 'M', '-', 'S', 'H', 'A', '-', '2', '5', '6', 0, 0), message('R', 0, 0, 0, 11, 'r', '=')), nil},
		"ready before the login":           {ready, nil},
		"rows without a description":       {greeting, join(row, row)},
		"columns that are not there":       {greeting, join(message('1'), message('2'), message('D', 255, 255))},
		"a column of a negative length":    {greeting, join(message('1'), message('2'), message('D', 0, 1, 128, 0, 0, 0))},
		"a description with too many":      {greeting, join(message('1'), message('2'), message('T', 127, 255))},
		"an answer to nobody":              {greeting, join(ready, ready, message('C', 'x', 0))},
		"COPY":                             {greeting, message('G', 0, 0, 0)},
		"notices without end":              {greeting, message('N', 'S', 'W', 0, 'M', 'x', 0, 0)},
		"parameters without end":           {greeting, message('S', 'a', 0, 'b', 0)},
		"notifications without end":        {greeting, message('A', 0, 0, 0, 1, 'a', 0, 'b', 0)},
		"half a message":                   {greeting, []byte{'D', 0, 0, 1}},
		"an error with control characters": {message('E', []byte("SFATAL\x00C28000\x00M\x1b[2J\r\nlevel=ERROR msg=forged\x00\x00")...), nil},
	}
}

// play is a server that says what a script says.
func play(t *testing.T, script [2][]byte) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // the test is over
			}
			go func() {
				defer conn.Close()
				if _, err := conn.Read(make([]byte, 4096)); err != nil {
					return
				}
				if _, err := conn.Write(script[0]); err != nil || script[1] == nil {
					return
				}
				ended := make(chan struct{})
				go func() {
					_, _ = io.Copy(io.Discard, conn) // until the client goes
					close(ended)
				}()
				for {
					select {
					case <-ended:
						return
					default:
					}
					if _, err := conn.Write(script[1]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return listener.Addr().String()
}

// TestHostileServers probes servers that break the protocol: each answers in
// time that it is not up, none takes memory, and none stays.
func TestHostileServers(t *testing.T) {
	e := watch(t, "postgresql://nobody@127.0.0.1:1/postgres?sslmode=disable", t.TempDir(), `
probe: {allow: ['127.0.0.1:*'], idle: 10s}
auth_modules: {a: {type: userpass, userpass: {username: u, password: p}, options: {sslmode: disable}}}
`)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var most uint64
	for name, script := range scripts() {
		t.Run(name, func(t *testing.T) {
			address := play(t, script)
			page := inTime(t, func(ctx context.Context) *exposition.Page {
				page, err := e.Probe(ctx, web.Probe{Target: address + "/postgres", AuthModule: "a"})
				if err != nil {
					t.Fatal(err)
				}
				return page
			})
			if up(page) {
				t.Error("up")
			}
			if len(page) == 0 || count(page, "pgintegrity_connection_failure") == 0 {
				t.Error("the page does not say why")
			}
			runtime.ReadMemStats(&after)
			most = max(most, after.HeapInuse)
		})
	}
	t.Logf("%d MiB in use before, %d MiB at most", before.HeapInuse>>20, most>>20)
	if most > before.HeapInuse+200<<20 {
		t.Errorf("%d MiB in use", most>>20)
	}
}
