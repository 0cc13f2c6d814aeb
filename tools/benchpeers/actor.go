package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"pg_integrity_exporter/internal/pgtest"
)

// actor plays many servers at once: it says what a real one said when it was asked
// the same for the first time, and costs next to nothing.
type actor struct {
	listener net.Listener
	sessions atomic.Int64

	mu     sync.Mutex
	real   *pgconn.PgConn
	spoken map[string][]pgproto3.BackendMessage // by what was asked
}

// newActor plays a server on all addresses of the machine.
func newActor(ctx context.Context, server *pgtest.Server, role string) (*actor, error) {
	real, err := pgconn.Connect(ctx, server.DSN("postgres", role))
	if err != nil {
		return nil, fmt.Errorf("asking the server that is played: %w", err)
	}
	listener, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		return nil, errors.Join(err, real.Close(ctx))
	}
	a := &actor{listener: listener, real: real, spoken: make(map[string][]pgproto3.BackendMessage)}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // the play is over
			}
			go func() {
				a.sessions.Add(1)
				defer a.sessions.Add(-1)
				defer conn.Close()
				_ = a.play(conn) // the client went away
			}()
		}
	}()
	return a, nil
}

func (a *actor) port() int { return a.listener.Addr().(*net.TCPAddr).Port } //nolint:forcetypeassert // it listens on TCP

func (a *actor) close(ctx context.Context) error {
	return errors.Join(a.listener.Close(), a.real.Close(ctx))
}

// play is one session, until the client ends it.
func (a *actor) play(conn net.Conn) error {
	client := pgproto3.NewBackend(conn, conn)
	start, err := client.ReceiveStartupMessage()
	if err != nil {
		return err
	}
	if _, ok := start.(*pgproto3.StartupMessage); !ok {
		return fmt.Errorf("%T is not played", start)
	}
	key := make([]byte, 4)
	binary.BigEndian.PutUint32(key, 1)
	client.Send(&pgproto3.AuthenticationOk{})
	for _, name := range []string{"server_version", "server_encoding", "client_encoding", "DateStyle", "IntervalStyle", "TimeZone", "integer_datetimes", "standard_conforming_strings"} {
		client.Send(&pgproto3.ParameterStatus{Name: name, Value: a.real.ParameterStatus(name)})
	}
	client.Send(&pgproto3.BackendKeyData{ProcessID: a.real.PID(), SecretKey: key})
	client.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if err := client.Flush(); err != nil {
		return err
	}
	prepared := make(map[string]string) // statements by name
	var described, bound string
	var formats []int16
	for {
		message, err := client.Receive()
		if err != nil {
			return err
		}
		switch m := message.(type) {
		case *pgproto3.Parse:
			prepared[m.Name] = m.Query
			client.Send(&pgproto3.ParseComplete{})
		case *pgproto3.Describe:
			if m.ObjectType == 'S' {
				described = prepared[m.Name]
				a.say(client, "describe "+described, func(ctx context.Context) []pgproto3.BackendMessage { return a.describe(ctx, described) })
			} else {
				a.say(client, fmt.Sprint("fields ", formats, bound), func(ctx context.Context) []pgproto3.BackendMessage { return a.fields(ctx, bound, formats) })
			}
		case *pgproto3.Bind:
			if len(m.Parameters) > 0 {
				return errors.New("statements with parameters are not played")
			}
			bound, formats = prepared[m.PreparedStatement], append([]int16(nil), m.ResultFormatCodes...)
			client.Send(&pgproto3.BindComplete{})
		case *pgproto3.Execute:
			a.say(client, fmt.Sprint("execute ", formats, bound), func(ctx context.Context) []pgproto3.BackendMessage { return a.execute(ctx, bound, formats) })
		case *pgproto3.Query:
			client.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 0")})
			client.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Sync:
			client.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Terminate:
			return io.EOF
		default:
			return fmt.Errorf("%T is not played", m)
		}
		switch message.(type) {
		case *pgproto3.Query, *pgproto3.Sync, *pgproto3.Flush:
			if err := client.Flush(); err != nil {
				return err
			}
		}
	}
}

// say says what the real server says, who is asked once.
func (a *actor) say(client *pgproto3.Backend, about string, ask func(ctx context.Context) []pgproto3.BackendMessage) {
	a.mu.Lock()
	messages, ok := a.spoken[about]
	if !ok {
		messages = ask(context.Background())
		a.spoken[about] = messages
	}
	a.mu.Unlock()
	for _, m := range messages {
		client.Send(m)
	}
}

// refusal is an error of the real server.
func refusal(err error) []pgproto3.BackendMessage {
	return []pgproto3.BackendMessage{&pgproto3.ErrorResponse{Severity: "ERROR", Code: "XX000", Message: err.Error()}}
}

func (a *actor) describe(ctx context.Context, sql string) []pgproto3.BackendMessage {
	statement, err := a.real.Prepare(ctx, "", sql, nil)
	if err != nil {
		return refusal(err)
	}
	return []pgproto3.BackendMessage{&pgproto3.ParameterDescription{ParameterOIDs: statement.ParamOIDs}, rowDescription(statement.Fields, nil)}
}

func (a *actor) fields(ctx context.Context, sql string, formats []int16) []pgproto3.BackendMessage {
	statement, err := a.real.Prepare(ctx, "", sql, nil)
	if err != nil {
		return refusal(err)
	}
	return []pgproto3.BackendMessage{rowDescription(statement.Fields, formats)}
}

func (a *actor) execute(ctx context.Context, sql string, formats []int16) []pgproto3.BackendMessage {
	result := a.real.ExecParams(ctx, sql, nil, nil, nil, formats).Read()
	if result.Err != nil {
		return refusal(result.Err)
	}
	var messages []pgproto3.BackendMessage
	for _, row := range result.Rows {
		messages = append(messages, &pgproto3.DataRow{Values: row})
	}
	return append(messages, &pgproto3.CommandComplete{CommandTag: []byte(result.CommandTag.String())})
}

func rowDescription(fields []pgconn.FieldDescription, formats []int16) pgproto3.BackendMessage {
	if len(fields) == 0 {
		return &pgproto3.NoData{}
	}
	description := new(pgproto3.RowDescription)
	for i, field := range fields {
		format := int16(0)
		switch {
		case len(formats) == 1:
			format = formats[0]
		case i < len(formats):
			format = formats[i]
		}
		description.Fields = append(description.Fields, pgproto3.FieldDescription{
			Name: []byte(field.Name), DataTypeOID: field.DataTypeOID, DataTypeSize: field.DataTypeSize, TypeModifier: field.TypeModifier, Format: format,
		})
	}
	return description
}
