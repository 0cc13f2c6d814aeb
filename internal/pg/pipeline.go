package pg

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// Pipeline sends several short statements at once.
type Pipeline struct {
	*pgconn.Pipeline

	conn     *Conn
	together bool
	sent     map[string]string // names of the statements that this pipeline prepares, by their text
}

// Pipeline begins one. Together the statements are one transaction, which costs the
// server less, and when one fails those behind it are not run; else each is one of
// its own. Behind a connection pooler they never are together.
func (c *Conn) Pipeline(ctx context.Context, together bool) *Pipeline {
	return &Pipeline{Pipeline: c.PgConn().StartPipeline(ctx), conn: c, together: together && !c.Facts.Pooled, sent: make(map[string]string)}
}

// Together says whether the statements are one transaction.
func (p *Pipeline) Together() bool { return p.together }

// Send adds a statement. A session of its own prepares it once: for a short
// statement that is most of the work that it makes the server. Behind a connection
// pooler nothing may stay in the session, so the statement goes as it is, with the
// limits of the session set for its transaction alone.
func (p *Pipeline) Send(sql string) {
	c := p.conn
	c.spent.asked()
	if c.Facts.Pooled {
		p.SendQueryParams(c.limits, nil, nil, nil, nil)
		p.SendQueryParams(sql, nil, nil, nil, []int16{pgtype.BinaryFormatCode})
		p.SendPipelineSync()
		return
	}
	name, known := c.prepared[sql]
	if !known {
		name, known = p.sent[sql]
	}
	if !known {
		c.named++
		name = fmt.Sprintf("pgintegrity_%d", c.named)
		p.sent[sql] = name
		p.SendPrepare(name, sql, nil)
	}
	p.SendQueryPrepared(name, nil, nil, []int16{pgtype.BinaryFormatCode})
	if !p.together {
		p.SendPipelineSync()
	}
}

// Flush sends what was added.
func (p *Pipeline) Flush() error {
	if p.together {
		p.SendPipelineSync()
	}
	return p.Pipeline.Flush()
}

// Receive reads the answer to a statement, in the order of Send, and gives its
// rows to use, which must read them to the end. After an error of the server there
// are no more answers when the statements are together; else the next is ready,
// unless the session is closed.
func (p *Pipeline) Receive(sql string, use func(rows *pgconn.ResultReader) error) (err error) {
	c := p.conn
	defer func() {
		c.spent.answered(err)
		if state := SQLState(err); state == "0A000" || state == "26000" { // its columns have changed, or it is gone
			delete(c.prepared, sql)
		}
	}()
	limits := c.Facts.Pooled // their answer comes first
	for {
		results, resultErr := p.GetResults()
		if resultErr != nil {
			err = errors.Join(err, resultErr)
			if c.PgConn().IsClosed() || p.together {
				return err
			}
			continue // the Sync of the statement follows
		}
		switch result := results.(type) {
		case *pgconn.PipelineSync:
			return err
		case *pgconn.StatementDescription:
			c.prepared[sql] = p.sent[sql]
		case *pgconn.ResultReader:
			if limits {
				limits = false
				_, limitsErr := result.Close()
				err = errors.Join(err, limitsErr)
				continue
			}
			if err = errors.Join(err, use(result)); p.together {
				return err
			}
		case nil:
			return errors.Join(err, errors.New("the server sent fewer answers than statements"))
		}
	}
}
