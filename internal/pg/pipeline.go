package pg

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// Send adds a statement and its Sync to a pipeline. A session of its own
// prepares the statement once: for a short statement that is most of the work
// that it makes the server. Behind a connection pooler nothing may stay in the
// session, so the statement goes as it is, with the limits of the session set
// for its transaction alone.
func (c *Conn) Send(pipeline *pgconn.Pipeline, sql string) {
	c.spent.asked()
	if c.Facts.Pooled {
		pipeline.SendQueryParams(c.limits, nil, nil, nil, nil)
		pipeline.SendQueryParams(sql, nil, nil, nil, []int16{pgtype.BinaryFormatCode})
		pipeline.SendPipelineSync()
		return
	}
	name, known := c.prepared[sql]
	if !known {
		c.named++
		name = fmt.Sprintf("pgintegrity_%d", c.named)
		c.prepared[sql] = name
		pipeline.SendPrepare(name, sql, nil)
	}
	pipeline.SendQueryPrepared(name, nil, nil, []int16{pgtype.BinaryFormatCode})
	pipeline.SendPipelineSync()
}

// Receive reads the answer to a statement of Send up to its Sync and gives its
// rows to use, which must read them to the end. An error leaves the pipeline
// ready for the next answer, unless the session is closed.
func (c *Conn) Receive(pipeline *pgconn.Pipeline, sql string, use func(rows *pgconn.ResultReader) error) (err error) {
	limits := c.Facts.Pooled // their answer comes first
	for {
		results, resultErr := pipeline.GetResults()
		if resultErr != nil {
			err = errors.Join(err, resultErr)
			if c.PgConn().IsClosed() {
				return err
			}
			continue // the Sync of the statement follows
		}
		switch result := results.(type) {
		case *pgconn.PipelineSync:
			if err != nil {
				c.spent.answered(err)
				delete(c.prepared, sql) // it may not be known to the server, or not fit any more
			}
			return err
		case *pgconn.ResultReader:
			if limits {
				limits = false
				_, limitsErr := result.Close()
				err = errors.Join(err, limitsErr)
				continue
			}
			err = errors.Join(err, use(result))
		case nil:
			return errors.Join(err, errors.New("the server sent fewer answers than statements"))
		}
	}
}
