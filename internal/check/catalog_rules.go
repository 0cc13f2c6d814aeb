package check

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// catalogRule is something that holds for every row of a catalogue whatever
// objects there are. The query gives what it does not hold for, by names and OIDs
// only: the functions that write out types and arguments trust the catalogues.
type catalogRule struct {
	catalogue string
	// wrong says what that means; %s stands for it.
	wrong string
	sql   string
}

// catalogRules are the rules that the server keeps when it makes, changes and
// drops objects, in the columns that 13 to 18 have in common.
var catalogRules = []catalogRule{
	{
		"pg_constraint", "pg_constraint contradicts itself about the constraint %s (deferred, inherited, its index)",
		`SELECT format('%I of %s', conname, CASE WHEN conrelid <> 0 THEN conrelid::regclass::text ELSE contypid::regtype::text END) FROM pg_constraint
		WHERE condeferred AND NOT condeferrable OR coninhcount < 0 OR coninhcount > 0 AND conrelid <> 0 AND conparentid = 0 AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = conrelid) OR (contype IN ('p', 'u', 'x', 'f')) <> (conindid <> 0)`,
	}, {
		"pg_attribute", "pg_attribute says that the column %s was inherited, but the table has no parent",
		`SELECT format('%s.%I', attrelid::regclass, attname) FROM pg_attribute WHERE attinhcount > 0 AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = attrelid)`,
	}, {
		"pg_attribute", "pg_attribute has an impossible target of statistics for the column %s",
		`SELECT format('%s.%I', attrelid::regclass, attname) FROM pg_attribute WHERE attstattarget < -1`,
	}, {
		"pg_statistic_ext", "pg_statistic_ext has an impossible target of statistics for %s",
		`SELECT format('%I', stxname) FROM pg_statistic_ext WHERE stxstattarget < -1`,
	}, {
		"pg_operator", "pg_operator has a function or a result of the operator %s, and not the other",
		`SELECT format('%s with OID %s', oprname, oid) FROM pg_operator WHERE (oprcode = 0) <> (oprresult = 0)`,
	}, {
		"pg_trigger", "pg_trigger contradicts itself about the trigger %s (deferred, constraint, transition tables)",
		`SELECT format('%I of %s', tgname, tgrelid::regclass) FROM pg_trigger
		WHERE tgdeferrable AND tgconstraint = 0 OR tginitdeferred AND NOT tgdeferrable OR '' IN (tgoldtable, tgnewtable)
		OR coalesce(tgoldtable, tgnewtable) IS NOT NULL AND tgtype & 66 <> 0`, // BEFORE, INSTEAD OF
	}, {
		"pg_init_privs", "pg_init_privs tells of privileges on nothing: %s",
		`SELECT format('OID %s in the catalogue %s', objoid, classoid) FROM pg_init_privs WHERE objoid = 0 OR objsubid < 0
		OR classoid = 'pg_class'::regclass AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = objoid)
		OR classoid = 'pg_proc'::regclass AND NOT EXISTS (SELECT FROM pg_proc p WHERE p.oid = objoid)`,
	}, {
		"pg_partitioned_table", "pg_partitioned_table does not have as many columns and operator classes in the partition key of %s as it says",
		`SELECT partrelid::regclass::text FROM pg_partitioned_table
		WHERE partnatts < 1 OR (partnatts, partnatts, partnatts) <> (cardinality(partattrs::int2[]), cardinality(partclass::oid[]), cardinality(partcollation::oid[]))`,
	}, {
		"pg_statistic_ext", "pg_statistic_ext names no or an unknown kind of statistics for %s",
		`SELECT format('%I', stxname) FROM pg_statistic_ext WHERE NOT stxkind <@ '{d,f,m,e}'::"char"[] OR cardinality(stxkind) = 0`,
	}, {
		"pg_event_trigger", "pg_event_trigger names an event that does not exist for %s",
		`SELECT format('%I', evtname) FROM pg_event_trigger WHERE evtevent NOT IN ('ddl_command_start', 'ddl_command_end', 'sql_drop', 'table_rewrite', 'login')`,
	}, {
		"pg_attribute", "pg_attribute does not store the column %s as its type in pg_type is: its values are misread",
		`SELECT format('%s.%I', a.attrelid::regclass, a.attname) FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
		WHERE NOT a.attisdropped AND ((a.attlen, a.attbyval, a.attalign) IS DISTINCT FROM (t.typlen, t.typbyval, t.typalign) OR t.typlen <> -1 AND a.attstorage <> 'p')`,
	}, {
		"pg_attribute", "pg_attribute contradicts itself about the column %s (number, type, dropped, inherited)",
		`SELECT format('%s.%I', attrelid::regclass, attname) FROM pg_attribute
		WHERE attnum = 0 OR attname = '' OR atttypmod < -1 OR attisdropped <> (atttypid = 0) OR attinhcount < 0 OR attndims < 0 OR attnum > 0 AND NOT attislocal AND attinhcount = 0`,
	}, {
		"pg_attribute", "pg_attribute has no collation for the column %s, whose type has one",
		`SELECT format('%s.%I', a.attrelid::regclass, a.attname) FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_class c ON c.oid = a.attrelid
		WHERE NOT a.attisdropped AND c.relkind IN ('r', 'p', 'm', 'f') AND t.typcollation <> 0 AND a.attcollation = 0`,
	}, {
		"pg_attribute", "pg_attribute does not have the system columns of %s",
		`SELECT c.oid::regclass::text FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum < 0
		WHERE c.relkind IN ('r', 'p', 'm', 't', 'S', 'f') GROUP BY c.oid HAVING count(a.attrelid) <> 6`,
	}, {
		"pg_class", "pg_class has impossible numbers for %s, or calls it shared against its tablespace",
		`SELECT oid::regclass::text FROM pg_class c WHERE coalesce((to_jsonb(c) ->> 'relallfrozen')::int, 0) < 0 OR relpages < -1 OR reltuples < -1 OR reltuples = 'NaN' OR relallvisible < 0 OR relnatts < 0 OR relchecks < 0 OR relisshared <> (reltablespace = 1664)`,
	}, {
		"pg_depend", "pg_depend has a dependency on nothing: %s",
		`SELECT format('of OID %s in the catalogue %s', objid, classid) FROM pg_depend WHERE refobjid = 0 OR refclassid = 0 OR objsubid < 0 OR refobjsubid < 0`,
	}, {
		"pg_depend", "pg_attribute does not have the column %s, which pg_depend tells of",
		`SELECT DISTINCT format('%s of %s', d.number, d.relation::regclass) FROM (SELECT objid, objsubid FROM pg_depend WHERE classid = 'pg_class'::regclass
		UNION SELECT refobjid, refobjsubid FROM pg_depend WHERE refclassid = 'pg_class'::regclass) d (relation, number)
		WHERE d.number <> 0 AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = d.relation AND a.attnum = d.number AND NOT a.attisdropped)`,
	}, {
		"pg_attrdef", "pg_attribute and pg_attrdef do not agree whether the column %s has a default",
		`SELECT format('%s.%I', a.attrelid::regclass, a.attname) FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atthasdef <> (d.oid IS NOT NULL)`,
	}, {
		"pg_attrdef", "pg_attrdef has a default for column %s, which does not exist",
		`SELECT format('%s of %s', d.adnum, d.adrelid::regclass) FROM pg_attrdef d LEFT JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum AND NOT a.attisdropped
		WHERE a.attrelid IS NULL OR d.adnum < 1`,
	}, {
		"pg_class", "pg_class says of %s that it is stored, or that it is not, against its kind",
		`SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('v', 'c', 'p', 'f', 'I') AND relfilenode <> 0
		OR relkind IN ('r', 'm', 't', 'i', 'S') AND relfilenode = 0 AND pg_relation_filenode(oid) IS NULL`,
	}, {
		"pg_class", "pg_class gives the same file to several relations: %s",
		`SELECT string_agg(oid::regclass::text, ', ' ORDER BY oid) FROM pg_class WHERE relfilenode <> 0 AND relpersistence <> 't' GROUP BY reltablespace, relfilenode HAVING count(*) > 1`,
	}, {
		"pg_class", "pg_class has no access method for %s, or one of another kind",
		`SELECT c.oid::regclass::text FROM pg_class c LEFT JOIN pg_am a ON a.oid = c.relam
		WHERE c.relkind IN ('r', 'm', 't') AND a.amtype IS DISTINCT FROM 't' OR c.relkind IN ('i', 'I') AND a.amtype IS DISTINCT FROM 'i'`,
	}, {
		"pg_class", "pg_class and pg_type do not agree about the row type of %s",
		`SELECT c.oid::regclass::text FROM pg_class c LEFT JOIN pg_type t ON t.oid = c.reltype WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND t.typrelid IS DISTINCT FROM c.oid`,
	}, {
		"pg_class", "pg_class has no row, or one of another kind, for %s",
		`SELECT format('the composite type %s', t.oid::regtype) FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid WHERE t.typtype = 'c' AND c.reltype IS DISTINCT FROM t.oid
		UNION ALL SELECT format('the sequence %s', s.seqrelid) FROM pg_sequence s LEFT JOIN pg_class c ON c.oid = s.seqrelid WHERE c.relkind IS DISTINCT FROM 'S'
		UNION ALL SELECT format('the partitioned table %s', p.partrelid) FROM pg_partitioned_table p LEFT JOIN pg_class c ON c.oid = p.partrelid WHERE c.relkind IS DISTINCT FROM 'p'
		UNION ALL SELECT format('the index %s', i.indexrelid) FROM pg_index i LEFT JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relkind IS NULL OR c.relkind NOT IN ('i', 'I')
		UNION ALL SELECT format('the TOAST table of %s', c.oid::regclass) FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid WHERE c.reltoastrelid <> 0 AND t.relkind IS DISTINCT FROM 't'`,
	}, {
		"pg_class", "pg_class has %s, of which the catalogue of its kind has no row",
		`SELECT 'the sequence ' || c.oid::regclass FROM pg_class c WHERE c.relkind = 'S' AND NOT EXISTS (SELECT FROM pg_sequence s WHERE s.seqrelid = c.oid)
		UNION ALL SELECT 'the partitioned table ' || c.oid::regclass FROM pg_class c WHERE c.relkind = 'p' AND NOT EXISTS (SELECT FROM pg_partitioned_table p WHERE p.partrelid = c.oid)
		UNION ALL SELECT 'the index ' || c.oid::regclass FROM pg_class c WHERE c.relkind IN ('i', 'I') AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = c.oid)
		UNION ALL SELECT 'the foreign table ' || c.oid::regclass FROM pg_class c WHERE c.relkind = 'f' AND NOT EXISTS (SELECT FROM pg_foreign_table f WHERE f.ftrelid = c.oid)
		UNION ALL SELECT 'the view ' || c.oid::regclass FROM pg_class c WHERE c.relkind IN ('v', 'm') AND NOT EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type = '1')`,
	}, {
		"pg_class", "pg_class gives the TOAST table %s to no table, or to several",
		`SELECT format('%s (of %s)', t.oid::regclass, substring(t.relname FROM '\d+$')::oid::regclass) FROM pg_class t LEFT JOIN pg_class c ON c.reltoastrelid = t.oid
		WHERE t.relkind = 't' AND t.relpersistence <> 't' GROUP BY t.oid, t.relname HAVING count(c.oid) <> 1`,
	}, {
		"pg_class", "pg_class gives %s another persistence than its table: after a crash one would be emptied without the other",
		`SELECT c.oid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid WHERE c.relpersistence <> t.relpersistence
		UNION ALL SELECT c.oid::regclass::text FROM pg_class t JOIN pg_class c ON c.oid = t.reltoastrelid WHERE c.relpersistence <> t.relpersistence`,
	}, {
		"pg_class", "pg_class, pg_inherits and the bounds do not agree whether %s is a partition",
		`SELECT c.oid::regclass::text FROM pg_class c LEFT JOIN (SELECT h.inhrelid, count(*) AS parents FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent AND p.relkind = 'p' GROUP BY h.inhrelid) h ON h.inhrelid = c.oid
		WHERE c.relkind IN ('r', 'p', 'f') AND (c.relispartition <> (c.relpartbound IS NOT NULL) OR c.relispartition AND h.parents IS DISTINCT FROM 1)`,
	}, {
		"pg_constraint", "pg_constraint lacks a part of the constraint %s, so that it cannot be enforced",
		`SELECT format('%I of %s', conname, CASE WHEN conrelid <> 0 THEN conrelid::regclass::text ELSE contypid::regtype::text END) FROM pg_constraint
		WHERE conrelid = 0 AND contypid = 0 OR contype = 'c' AND conbin IS NULL OR contype IN ('p', 'u', 'x') AND conindid = 0 OR contype IN ('p', 'u', 'f') AND coalesce(cardinality(conkey), 0) = 0
		OR contype = 'f' AND (confrelid = 0 OR ARRAY[cardinality(confkey), cardinality(conpfeqop), cardinality(conppeqop), cardinality(conffeqop)] IS DISTINCT FROM array_fill(cardinality(conkey), ARRAY[4]))`,
	}, {
		"pg_constraint", "pg_constraint and pg_index do not agree about the key %s",
		`SELECT format('%I of %s', k.conname, k.conrelid::regclass) FROM pg_constraint k LEFT JOIN pg_index i ON i.indexrelid = k.conindid
		WHERE k.contype IN ('p', 'u') AND (i.indrelid IS DISTINCT FROM k.conrelid OR NOT i.indisunique OR i.indisprimary <> (k.contype = 'p')) OR k.contype = 'x' AND i.indrelid IS DISTINCT FROM k.conrelid
		UNION ALL SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relkind <> 't' AND i.indisprimary AND i.indexrelid >= 16384
		AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype = 'p')`,
	}, {
		"pg_index", "pg_index contradicts itself about the index %s (numbers of columns, states, uniqueness)",
		`SELECT i.indexrelid::regclass::text FROM pg_index i LEFT JOIN pg_class c ON c.oid = i.indexrelid
		WHERE cardinality(i.indkey::int2[]) <> i.indnatts OR c.relnatts <> i.indnatts OR i.indnkeyatts > i.indnatts OR i.indnkeyatts < 1 OR cardinality(i.indclass::oid[]) <> i.indnkeyatts
		OR cardinality(i.indcollation::oid[]) <> i.indnkeyatts OR cardinality(i.indoption::int2[]) <> i.indnkeyatts OR i.indisprimary AND NOT i.indisunique OR i.indisvalid AND NOT i.indisready OR i.indisready AND NOT i.indislive
		OR (0 = ANY (i.indkey::int2[])) <> (i.indexprs IS NOT NULL)
		OR NOT i.indimmediate AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x') AND k.condeferrable)`,
	}, {
		"pg_index", "pg_index calls %s the replica identity of its table, but pg_class another, or there are two",
		`SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE i.indisreplident
		AND (c.relreplident <> 'i' OR EXISTS (SELECT FROM pg_index o WHERE o.indrelid = i.indrelid AND o.indexrelid <> i.indexrelid AND o.indisreplident))`,
	}, {
		"pg_index", "pg_index refers to a column that the table does not have, in the index %s",
		`SELECT DISTINCT i.indexrelid::regclass::text FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) k LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k AND NOT a.attisdropped WHERE k <> 0 AND a.attrelid IS NULL`,
	}, {
		"pg_index", "pg_index and pg_opclass do not agree about the index %s: an operator class is of another access method",
		`SELECT DISTINCT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid CROSS JOIN unnest(i.indclass::oid[]) k JOIN pg_opclass o ON o.oid = k WHERE o.opcmethod <> c.relam`,
	}, {
		"pg_opclass", "the operator class %s is not complete in pg_amop, pg_amproc and pg_operator: indexes that use it give wrong answers or fail",
		`SELECT format('%I for access method %I', o.opcname, a.amname) FROM pg_opclass o JOIN pg_am a ON a.oid = o.opcmethod WHERE o.oid < 16384 AND NOT amvalidate(o.oid)
		AND NOT EXISTS (SELECT FROM pg_amop m WHERE m.amopfamily = o.opcfamily AND m.oid >= 16384) AND NOT EXISTS (SELECT FROM pg_amproc m WHERE m.amprocfamily = o.opcfamily AND m.oid >= 16384)`,
	}, {
		"pg_proc", "pg_proc contradicts itself about the function %s (numbers of arguments, aggregates)",
		`SELECT format('%I (OID %s)', p.proname, p.oid) FROM pg_proc p WHERE p.pronargs <> cardinality(p.proargtypes::oid[]) OR p.pronargdefaults > p.pronargs OR p.procost < 0 OR p.prorows < 0
		OR p.proallargtypes IS NOT NULL AND cardinality(p.proallargtypes) IS DISTINCT FROM cardinality(p.proargmodes) OR (p.prokind = 'a') <> EXISTS (SELECT FROM pg_aggregate a WHERE a.aggfnoid = p.oid)`,
	}, {
		"pg_cast", "pg_cast has no function for the cast %s, or one that it does not need",
		`SELECT format('%s to %s', castsource::regtype, casttarget::regtype) FROM pg_cast WHERE (castmethod = 'f') <> (castfunc <> 0)`,
	}, {
		"pg_sequence", "pg_sequence has impossible bounds for the sequence %s",
		`SELECT seqrelid::regclass::text FROM pg_sequence WHERE seqincrement = 0 OR seqmin >= seqmax OR seqstart NOT BETWEEN seqmin AND seqmax OR seqcache < 1 OR seqtypid NOT IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)`,
	}, {
		"pg_type", "pg_type contradicts itself about the type %s (size, kind, base, elements)",
		`SELECT format('%I (OID %s)', t.typname, t.oid) FROM pg_type t LEFT JOIN pg_type a ON a.oid = t.typarray
		WHERE t.typlen < -2 OR t.typlen = 0 OR t.typbyval AND t.typlen NOT IN (1, 2, 4, 8) OR t.typlen <> -1 AND t.typstorage <> 'p' OR (t.typtype = 'd') <> (t.typbasetype <> 0) OR (t.typtype = 'c') <> (t.typrelid <> 0)
		OR t.typarray <> 0 AND a.typelem IS DISTINCT FROM t.oid OR t.typisdefined AND (t.typinput = 0 OR t.typoutput = 0)`,
	}, {
		"pg_type", "pg_type calls %s an enum, of which pg_enum has no labels, or pg_enum has labels of another type",
		`SELECT format('%s', e.enumtypid) FROM pg_enum e LEFT JOIN pg_type t ON t.oid = e.enumtypid WHERE t.typtype IS DISTINCT FROM 'e'`,
	}, {
		"pg_type", "pg_type and pg_range do not agree about the range type %s",
		`SELECT t.oid::regtype::text FROM pg_type t WHERE t.typtype = 'r' AND NOT EXISTS (SELECT FROM pg_range r WHERE r.rngtypid = t.oid)`,
	}, {
		"pg_trigger", "pg_trigger contradicts itself about the trigger %s",
		`SELECT format('%I of %s', tgname, tgrelid::regclass) FROM pg_trigger WHERE tgnargs < 0 OR tgtype < 0 OR tginitdeferred AND NOT tgdeferrable`,
	}, {
		"pg_inherits", "pg_inherits gives an impossible place to the child %s",
		`SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhseqno < 1 OR inhrelid = inhparent`,
	}, {
		"pg_depend", "pg_depend does not say what %s depends on: it would outlive its table or type",
		`SELECT 'the index ' || i.indexrelid::regclass FROM pg_index i WHERE i.indexrelid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid)
		UNION ALL SELECT format('the constraint %I', k.conname) FROM pg_constraint k WHERE k.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_constraint'::regclass AND d.objid = k.oid)
		UNION ALL SELECT 'a default of ' || a.adrelid::regclass FROM pg_attrdef a WHERE a.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid)
		UNION ALL SELECT 'the TOAST table ' || t.oid::regclass FROM pg_class t WHERE t.relkind = 't' AND t.oid >= 16384 AND t.relpersistence <> 't' AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = t.oid)
		UNION ALL SELECT format('the trigger %I of %s', t.tgname, t.tgrelid::regclass) FROM pg_trigger t WHERE t.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_trigger'::regclass AND d.objid = t.oid)
		UNION ALL SELECT format('the rule %I of %s', r.rulename, r.ev_class::regclass) FROM pg_rewrite r WHERE r.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid)`,
	}, {
		"pg_operator", "pg_operator contradicts itself about the operator %s",
		`SELECT format('%s (OID %s)', oprname, oid) FROM pg_operator WHERE oid < 16384 AND oprcode = 0 OR oprright = 0 AND oprkind <> 'r' OR (oprkind = 'b') <> (oprleft <> 0 AND oprright <> 0)`,
	}, {
		"pg_aggregate", "pg_aggregate contradicts itself about the aggregate %s",
		`SELECT format('with OID %s', aggfnoid::oid) FROM pg_aggregate WHERE aggtransfn = 0 OR aggnumdirectargs < 0 OR aggkind = 'n' AND aggnumdirectargs > 0 OR aggtransspace < 0 OR aggmtransspace < 0 OR (aggserialfn <> 0) <> (aggdeserialfn <> 0) OR (aggmtransfn <> 0) <> (aggminvtransfn <> 0)
		OR (aggmtransfn <> 0) <> (aggmtranstype <> 0) OR aggtranstype = 0`,
	}, {
		"pg_conversion", "pg_conversion has an impossible encoding for %s",
		`SELECT conname::text FROM pg_conversion WHERE pg_encoding_to_char(conforencoding) = '' OR pg_encoding_to_char(contoencoding) = ''`,
	}, {
		"pg_collation", "pg_collation has an impossible encoding for %s",
		`SELECT collname::text FROM pg_collation WHERE collencoding <> -1 AND pg_encoding_to_char(collencoding) = ''`,
	}, {
		"pg_amop", "pg_amop has an impossible strategy for %s",
		`SELECT format('the operator with OID %s', amopopr) FROM pg_amop WHERE amopstrategy < 1`,
	}, {
		"pg_amproc", "pg_amproc has an impossible number for the support function %s",
		`SELECT format('with OID %s', amproc::oid) FROM pg_amproc WHERE amprocnum < 0`,
	}, {
		"pg_attribute", "pg_attribute lets the column %s be NULL, although its primary key, its identity or the partitioned table forbids it",
		`SELECT format('%s.%I', a.attrelid::regclass, a.attname) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'f') WHERE NOT a.attnotnull AND NOT a.attisdropped AND a.attnum > 0
		AND (a.attidentity <> '' OR (a.attrelid, a.attnum) IN (SELECT i.indrelid, k FROM pg_index i CROSS JOIN unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS k WHERE i.indisprimary)
		OR c.relispartition AND (a.attrelid, a.attname) IN (SELECT h.inhrelid, b.attname FROM pg_inherits h JOIN pg_attribute b ON b.attrelid = h.inhparent AND b.attnotnull))`,
	}, {
		"pg_attribute", "pg_attribute contradicts itself about the column %s (missing value, generated, identity)",
		`SELECT format('%s.%I', attrelid::regclass, attname) FROM pg_attribute WHERE NOT attisdropped
		AND (atthasmissing <> (attmissingval IS NOT NULL) OR attgenerated <> '' AND NOT atthasdef OR attidentity <> '' AND atttypid NOT IN (20, 21, 23))`,
	}, {
		"pg_attribute", "pg_attribute does not number the columns of %s from 1 on without a gap",
		`SELECT attrelid::regclass::text FROM pg_attribute WHERE attnum > 0 GROUP BY attrelid HAVING max(attnum) <> count(*)`,
	}, {
		"pg_attribute", "pg_attribute gives a column of the index %s another type or collation than its table or pg_index",
		`SELECT DISTINCT i.indexrelid::regclass::text FROM pg_index i CROSS JOIN generate_series(0, i.indnkeyatts - 1) k JOIN pg_attribute a ON a.attrelid = i.indexrelid AND a.attnum = k + 1
		JOIN pg_opclass o ON o.oid = (i.indclass::oid[])[k] LEFT JOIN pg_attribute t ON t.attrelid = i.indrelid AND t.attnum = (i.indkey::int2[])[k]
		WHERE a.attcollation <> (i.indcollation::oid[])[k] OR o.opcmethod = 403 AND o.opckeytype = 0 AND t.atttypid <> a.atttypid`,
	}, {
		"pg_class", "pg_class contradicts itself about %s (populated, rewritten, frozen)",
		`SELECT oid::regclass::text FROM pg_class WHERE NOT relispopulated AND relkind <> 'm' OR relrewrite <> 0 AND relpersistence <> 't'
		OR relkind IN ('v', 'c', 'f') AND relam <> 0 OR relkind IN ('i', 'I', 'S', 'v', 'c', 'f') AND (reltoastrelid <> 0 OR relfrozenxid <> '0' OR relminmxid <> '0')
		OR reloftype <> 0 AND EXISTS (SELECT FROM pg_type t WHERE t.oid = reloftype AND t.typtype <> 'c')
		OR (relkind IN ('r', 'm', 't') AND relam = 2) <> (relfrozenxid <> '0' AND relminmxid <> '0') AND (relam IN (0, 2) OR relkind IN ('i', 'I'))`,
	}, {
		"pg_class", "pg_class has an option for %s that no statement can set: a dump of it cannot be restored",
		`SELECT format('%s (%s)', c.oid::regclass, o) FROM pg_class c CROSS JOIN unnest(c.reloptions) o WHERE o !~ '^[^=]+='
		OR o ~ '^fillfactor=' AND o !~ '^fillfactor=([1-9][0-9]|100)$' OR o ~ '^(deduplicate_items|fastupdate|autosummarize|autovacuum_enabled|security_barrier)='
		AND o !~* '=(t|tr|tru|true|f|fa|fal|fals|false|y|ye|yes|n|no|on|of|off|0|1)$'`,
	}, {
		"pg_class", "pg_class gives the index or TOAST table %s another owner or schema than its table",
		`SELECT c.oid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid WHERE (c.relowner, c.relnamespace) <> (t.relowner, t.relnamespace)
		UNION ALL SELECT c.oid::regclass::text FROM pg_class t JOIN pg_class c ON c.oid = t.reltoastrelid WHERE c.relowner <> t.relowner OR c.relnamespace <> 99 AND c.relpersistence <> 't'`,
	}, {
		"pg_class", "pg_class and pg_type do not agree about the name, owner or schema of %s",
		`SELECT c.oid::regclass::text FROM pg_class c JOIN pg_type t ON t.oid = c.reltype WHERE (t.typname, t.typowner, t.typnamespace) <> (c.relname, c.relowner, c.relnamespace)`,
	}, {
		"pg_constraint", "pg_constraint and pg_index, or pg_class, do not agree about the columns, the schema or the deferral of the constraint %s",
		`SELECT format('%I of %s', k.conname, k.conrelid::regclass) FROM pg_constraint k JOIN pg_index i ON i.indexrelid = k.conindid
		WHERE k.contype IN ('p', 'u', 'x') AND (array_to_string(k.conkey, ' ') <> array_to_string((i.indkey::int2[])[0:i.indnkeyatts - 1], ' ') OR i.indimmediate = k.condeferrable)
		OR k.contype = 'f' AND (i.indrelid <> k.confrelid OR NOT i.indisunique OR NOT (k.confkey <@ (i.indkey::int2[])[0:i.indnkeyatts - 1] AND k.confkey @> (i.indkey::int2[])[0:i.indnkeyatts - 1]))
		UNION ALL SELECT format('%I of %s', k.conname, c.oid::regclass) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid WHERE k.connamespace <> c.relnamespace`,
	}, {
		"pg_constraint", "pg_constraint says that the column %s is NOT NULL, but pg_attribute does not, or the other way round",
		`SELECT format('%s.%I', a.attrelid::regclass, a.attname) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'f') AND c.oid >= 16384
		LEFT JOIN (SELECT DISTINCT k.conrelid, n FROM pg_constraint k CROSS JOIN unnest(k.conkey) n WHERE k.contype = 'n') k ON k.conrelid = a.attrelid AND k.n = a.attnum
		WHERE a.attnum > 0 AND NOT a.attisdropped AND current_setting('server_version_num')::int >= 180000 AND a.attnotnull <> (k.n IS NOT NULL)`,
	}, {
		"pg_index", "pg_index has an impossible order for a column of the index %s",
		`SELECT DISTINCT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid CROSS JOIN unnest(i.indoption::int2[]) o WHERE o NOT BETWEEN 0 AND 3 OR o <> 0 AND c.relam IN (405, 783, 2742, 3580, 4000)`,
	}, {
		"pg_depend", "pg_depend does not say that %s depends on a column that it has: dropping the column would leave it behind",
		`SELECT 'the index ' || i.indexrelid::regclass FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid AND t.relkind <> 't' CROSS JOIN unnest(i.indkey::int2[]) k WHERE i.indexrelid >= 16384 AND k > 0
		AND NOT EXISTS (SELECT FROM pg_constraint n WHERE n.conindid = i.indexrelid AND n.contype IN ('p', 'u', 'x'))
		AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 1259 AND d.objid = i.indexrelid AND d.refclassid = 1259 AND d.refobjid = i.indrelid AND d.refobjsubid = k)
		UNION SELECT format('the constraint %I of %s', n.conname, n.conrelid::regclass) FROM pg_constraint n CROSS JOIN unnest(n.conkey) k WHERE n.oid >= 16384 AND n.conrelid <> 0 AND k > 0
		AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 2606 AND d.objid = n.oid AND d.refclassid = 1259 AND d.refobjid = n.conrelid AND d.refobjsubid = k)`,
	}, {
		"pg_shdepend", "pg_shdepend does not say who owns %s: the role could be dropped",
		`SELECT 'the relation ' || c.oid::regclass FROM pg_class c WHERE c.relowner >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't' AND NOT EXISTS (SELECT FROM pg_shdepend d
		WHERE (d.classid, d.objid, d.objsubid, d.refclassid, d.refobjid, d.deptype) = (1259, c.oid, 0, 1260, c.relowner, 'o') AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()))`,
	}, {
		"pg_description", "pg_description has a comment on something that does not exist: %s",
		`SELECT format('column %s of OID %s in the catalogue %s', d.objsubid, d.objoid, d.classoid) FROM pg_description d WHERE d.objsubid < 0 OR d.objsubid > 0
		AND (d.classoid <> 1259 OR NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = d.objoid AND a.attnum = d.objsubid AND NOT a.attisdropped))`,
	}, {
		"pg_inherits", "pg_inherits gives the partition %s a place that only a child of another kind can have",
		`SELECT h.inhrelid::regclass::text FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent WHERE p.relkind IN ('p', 'I') AND h.inhseqno <> 1 OR p.relkind <> 'p' AND to_jsonb(h) ->> 'inhdetachpending' = 'true'`,
	}, {
		"pg_language", "pg_language contradicts itself about the language %s (its handler)",
		`SELECT lanname::text FROM pg_language WHERE lanispl <> (lanplcallfoid <> 0)`,
	}, {
		"pg_opclass", "pg_opclass has several default operator classes for %s, or gives one to a family of another access method",
		`SELECT format('the type with OID %s and the access method %s', opcintype, opcmethod) FROM pg_opclass WHERE opcdefault GROUP BY opcmethod, opcintype HAVING count(*) > 1
		UNION ALL SELECT o.opcname::text FROM pg_opclass o JOIN pg_opfamily f ON f.oid = o.opcfamily WHERE f.opfmethod <> o.opcmethod`,
	}, {
		"pg_amop", "pg_amop and pg_operator or pg_opfamily do not agree about %s (types, access method, order)",
		`SELECT format('the operator with OID %s', a.amopopr) FROM pg_amop a JOIN pg_operator o ON o.oid = a.amopopr JOIN pg_opfamily f ON f.oid = a.amopfamily
		WHERE a.amopmethod <> f.opfmethod OR (a.amoplefttype, a.amoprighttype) <> (o.oprleft, o.oprright) OR (a.amoppurpose = 'o') <> (a.amopsortfamily <> 0)`,
	}, {
		"pg_proc", "pg_proc contradicts itself about the function %s (its result, names and modes of arguments, defaults)",
		`SELECT format('%I (OID %s)', proname, oid) FROM pg_proc WHERE proretset <> (prorows > 0) OR (pronargdefaults > 0) <> (proargdefaults IS NOT NULL) OR (provariadic <> 0) <> coalesce('v' = ANY (proargmodes), false)
		OR NOT proargmodes <@ '{i,o,b,v,t}'::"char"[] OR proargmodes IS NOT NULL AND pronargs <> (SELECT count(*) FROM unnest(proargmodes) m WHERE m IN ('i', 'b', 'v'))
		OR cardinality(proargnames) <> coalesce(cardinality(proallargtypes), pronargs)`,
	}, {
		"pg_operator", "pg_operator contradicts itself about the operator %s (merge and hash joins, the pairs it belongs to)",
		`SELECT format('%s (OID %s)', o.oprname, o.oid) FROM pg_operator o LEFT JOIN pg_operator c ON c.oid = o.oprcom LEFT JOIN pg_operator n ON n.oid = o.oprnegate
		WHERE (o.oprcanmerge OR o.oprcanhash) AND (o.oprkind <> 'b' OR o.oprresult <> 16 AND o.oprcode <> 0) OR o.oid < 12000 AND (c.oid <> 0 AND (c.oprcom <> o.oid OR (c.oprleft, c.oprright) <> (o.oprright, o.oprleft))
		OR n.oid <> 0 AND (n.oprnegate <> o.oid OR (n.oprleft, n.oprright) <> (o.oprleft, o.oprright)))`,
	}, {
		"pg_policy", "pg_policy has conditions for the policy %s that its command cannot have, or no roles",
		`SELECT format('%I of %s', polname, polrelid::regclass) FROM pg_policy WHERE polcmd = 'a' AND polqual IS NOT NULL OR polcmd IN ('r', 'd') AND polwithcheck IS NOT NULL OR cardinality(polroles) = 0`,
	}, {
		"pg_publication_rel", "pg_publication_rel publishes a column that the table does not have: %s",
		`SELECT DISTINCT r.prrelid::regclass::text FROM pg_publication_rel r CROSS JOIN regexp_split_to_table(btrim(to_jsonb(r) ->> 'prattrs', '[]'), '[, ]+') k
		WHERE k <> '' AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = r.prrelid AND a.attnum::text = k AND a.attnum > 0 AND NOT a.attisdropped)`,
	}, {
		"pg_rewrite", "pg_rewrite contradicts itself or pg_class about the rule %s",
		`SELECT format('%I of %s', r.rulename, c.oid::regclass) FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
		WHERE (r.ev_type = '1') <> (r.rulename = '_RETURN') OR r.ev_type = '1' AND (NOT r.is_instead OR c.relkind NOT IN ('v', 'm')) OR c.relkind NOT IN ('r', 'p', 'v', 'm')`,
	}, {
		"pg_sequence", "pg_sequence lets the sequence %s go beyond its type",
		`SELECT seqrelid::regclass::text FROM pg_sequence WHERE seqtypid = 21 AND (seqmax > 32767 OR seqmin < -32768) OR seqtypid = 23 AND (seqmax > 2147483647 OR seqmin < -2147483648)`,
	}, {
		"pg_collation", "pg_collation calls the collation %s not deterministic, which its provider cannot be",
		`SELECT collname::text FROM pg_collation WHERE NOT collisdeterministic AND collprovider NOT IN ('i', 'd')`,
	}, {
		"pg_extension", "pg_extension contradicts itself about the extension %s (its version, its tables)",
		`SELECT extname::text FROM pg_extension WHERE extversion = '' OR cardinality(extconfig) <> cardinality(extcondition)`,
	}, {
		"pg_database", "pg_database has an impossible encoding, limit or horizon for the database %s",
		`SELECT datname::text FROM pg_database WHERE pg_encoding_to_char(encoding) = '' OR datconnlimit < -2 OR datfrozenxid = '0' OR datminmxid = '0'`,
	}, {
		"pg_type", "pg_type contradicts itself about the type %s (category, delimiter, what only domains have, its array)",
		`SELECT format('%I (OID %s)', t.typname, t.oid) FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem LEFT JOIN pg_type b ON b.oid = t.typbasetype
		WHERE t.typtype <> 'd' AND (t.typnotnull OR t.typtypmod <> -1 OR t.typndims <> 0) OR t.typndims < 0 OR t.typtypmod < -1
		OR t.typcategory <> CASE WHEN t.typtype = 'p' THEN t.typcategory WHEN t.typtype = 'e' THEN 'E' WHEN t.typtype = 'c' THEN 'C' WHEN t.typtype IN ('r', 'm') THEN 'R' WHEN t.typtype = 'd' THEN b.typcategory WHEN t.typinput = 750 THEN 'A' ELSE t.typcategory END
		OR t.typdelim <> CASE WHEN t.typtype IN ('e', 'c', 'r', 'm') THEN ',' WHEN t.typtype = 'd' THEN b.typdelim WHEN t.typinput = 750 THEN e.typdelim ELSE t.typdelim END
		OR t.typispreferred AND t.typtype IN ('e', 'c', 'r', 'm') OR t.typinput = 750 AND e.typarray <> t.oid OR NOT t.typisdefined AND t.typtype <> 'p'
		OR t.typtype IN ('e', 'c', 'r') AND (t.typinput, t.typoutput, t.typreceive, t.typsend) <> (CASE t.typtype WHEN 'e' THEN 3506 WHEN 'c' THEN 2290 ELSE 3834 END, CASE t.typtype WHEN 'e' THEN 3507 WHEN 'c' THEN 2291 ELSE 3835 END,
			CASE t.typtype WHEN 'e' THEN 3532 WHEN 'c' THEN 2402 ELSE 3836 END, CASE t.typtype WHEN 'e' THEN 3533 WHEN 'c' THEN 2403 ELSE 3837 END)`,
	}, {
		"pg_trigger", "pg_trigger does not have the trigger %s as its constraint needs it (internal, function, event, deferral)",
		`SELECT format('%I of %s', t.tgname, t.tgrelid::regclass) FROM pg_trigger t LEFT JOIN pg_constraint k ON k.oid = t.tgconstraint
		WHERE t.tgisinternal AND t.tgconstraint = 0 AND t.tgparentid = 0 OR t.tgtype & 60 = 0 OR t.tgtype & 33 = 33 OR k.contype IN ('f', 'p', 'u', 'x') AND NOT t.tgisinternal
		OR k.contype = 'f' AND t.tgfoid IN (1644, 1645, 1654, 1655) AND (t.tgdeferrable, t.tginitdeferred) <> (k.condeferrable, k.condeferred)
		OR k.contype = 'f' AND NOT CASE WHEN t.tgfoid = 1644 THEN t.tgtype = 5 AND (t.tgrelid, t.tgconstrrelid) = (k.conrelid, k.confrelid) WHEN t.tgfoid = 1645 THEN t.tgtype = 17 AND (t.tgrelid, t.tgconstrrelid) = (k.conrelid, k.confrelid)
			WHEN t.tgtype = 9 THEN t.tgfoid = CASE k.confdeltype WHEN 'c' THEN 1646 WHEN 'r' THEN 1648 WHEN 'n' THEN 1650 WHEN 'd' THEN 1652 ELSE 1654 END AND (t.tgrelid, t.tgconstrrelid) = (k.confrelid, k.conrelid)
			WHEN t.tgtype = 17 THEN t.tgfoid = CASE k.confupdtype WHEN 'c' THEN 1647 WHEN 'r' THEN 1649 WHEN 'n' THEN 1651 WHEN 'd' THEN 1653 ELSE 1655 END AND (t.tgrelid, t.tgconstrrelid) = (k.confrelid, k.conrelid) ELSE false END`,
	}, {
		"pg_constraint", "pg_constraint compares the columns of the foreign key %s with an operator that is not the equality of the key that it refers to",
		`SELECT DISTINCT format('%I of %s', k.conname, k.conrelid::regclass) FROM pg_constraint k JOIN pg_index i ON i.indexrelid = k.conindid JOIN pg_class x ON x.oid = k.conindid AND x.relam = 403
		CROSS JOIN generate_series(1, cardinality(k.confkey)) n CROSS JOIN generate_series(0, i.indnkeyatts - 1) p JOIN pg_opclass o ON o.oid = (i.indclass::oid[])[p]
		LEFT JOIN pg_amop pf ON pf.amopfamily = o.opcfamily AND pf.amopstrategy = 3 AND pf.amopopr = k.conpfeqop[n]
		LEFT JOIN pg_amop pp ON pp.amopfamily = o.opcfamily AND pp.amopstrategy = 3 AND pp.amopopr = k.conppeqop[n]
		LEFT JOIN pg_amop ff ON ff.amopfamily = o.opcfamily AND ff.amopstrategy = 3 AND ff.amopopr = k.conffeqop[n]
		WHERE k.contype = 'f' AND k.confkey[n] = (i.indkey::int2[])[p] AND (pf.oid IS NULL OR pp.oid IS NULL OR ff.oid IS NULL)`,
	}, {
		"pg_constraint", "pg_constraint calls the constraint %s neither local nor inherited, or its index has another name",
		`SELECT format('%I of %s', k.conname, k.conrelid::regclass) FROM pg_constraint k LEFT JOIN pg_class c ON c.oid = k.conindid
		WHERE NOT k.conislocal AND k.coninhcount = 0 OR k.contype IN ('p', 'u', 'x') AND c.relname <> k.conname`,
	}, {
		"pg_attrdef", "the default of the column %s is of another type, or has columns although the column is not generated",
		`SELECT format('%s.%I', a.attrelid::regclass, a.attname) FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
		WHERE a.attgenerated = '' AND d.adbin::text LIKE '%{VAR %'
		OR substring(d.adbin::text FROM '^\{(?:CONST :consttype|FUNCEXPR :funcid \d+ :funcresulttype|OPEXPR :opno \d+ :opfuncid \d+ :opresulttype) (\d+)')::bigint <> a.atttypid::bigint`,
	}, {
		"pg_attribute", "pg_attribute and pg_depend do not agree whether the column %s is an identity column",
		`SELECT format('%s.%I', a.attrelid::regclass, a.attname) FROM pg_attribute a JOIN pg_class t ON t.oid = a.attrelid AND t.relkind IN ('r', 'p', 'f') AND NOT t.relispartition
		LEFT JOIN (SELECT d.refobjid, d.refobjsubid FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
			WHERE d.classid = 1259 AND d.refclassid = 1259 AND d.refobjsubid > 0 AND d.deptype = 'i') s ON s.refobjid = a.attrelid AND s.refobjsubid = a.attnum
		WHERE a.attnum > 0 AND NOT a.attisdropped AND (a.attidentity <> '') <> (s.refobjid IS NOT NULL)`,
	}, {
		"pg_attribute", "pg_attribute gives the column %s a modifier or a collation that its type cannot have",
		`SELECT format('%s.%I', a.attrelid::regclass, a.attname) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'm', 'f') JOIN pg_type t ON t.oid = a.atttypid
		WHERE a.attnum > 0 AND NOT a.attisdropped AND (a.atttypmod >= 0 AND t.typmodin = 0 AND t.typtype <> 'd' OR a.attcollation <> 0 AND t.typcollation = 0)`,
	}, {
		"pg_trigger", "pg_trigger has another number of arguments than it says, or another index than its constraint, for %s",
		`SELECT format('%I of %s', t.tgname, t.tgrelid::regclass) FROM pg_trigger t LEFT JOIN pg_constraint k ON k.oid = t.tgconstraint
		WHERE (SELECT count(*) FROM generate_series(0, octet_length(t.tgargs) - 1) i WHERE get_byte(t.tgargs, i) = 0) <> t.tgnargs OR k.contype = 'f' AND t.tgconstrindid <> k.conindid`,
	}, {
		"pg_depend", "pg_depend does not say that %s, so that one could be dropped without the other",
		`SELECT format('the index of the constraint %I of %s belongs to it', k.conname, k.conrelid::regclass) FROM pg_constraint k LEFT JOIN pg_depend d
			ON d.classid = 1259 AND d.objid = k.conindid AND d.refclassid = 2606 AND d.refobjid = k.oid AND d.deptype = 'i' WHERE k.contype IN ('p', 'u', 'x') AND k.oid >= 16384 AND d.objid IS NULL
		UNION ALL SELECT format('%s is in the schema %I', c.oid::regclass, n.nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_depend d
			ON d.classid = 1259 AND d.objid = c.oid AND d.objsubid = 0 AND d.refclassid = 2615 AND d.refobjid = n.oid
			WHERE n.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't' AND d.objid IS NULL
		UNION ALL SELECT format('the function %I is in the schema %I', p.proname, n.nspname) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace LEFT JOIN pg_depend d
			ON d.classid = 1255 AND d.objid = p.oid AND d.refclassid = 2615 AND d.refobjid = n.oid WHERE n.oid >= 16384 AND p.oid >= 16384 AND d.objid IS NULL
			AND n.nspname NOT LIKE 'pg\_temp\_%'
		UNION ALL SELECT format('the row type of %s belongs to it', c.oid::regclass) FROM pg_class c LEFT JOIN pg_depend d
			ON d.classid = 1247 AND d.objid = c.reltype AND d.refclassid = 1259 AND d.refobjid = c.oid AND d.deptype = 'i'
			WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.reltype <> 0 AND d.objid IS NULL
		UNION ALL SELECT format('%s is a child of %s', c.oid::regclass, h.inhparent::regclass) FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid AND c.relkind IN ('r', 'p', 'f') LEFT JOIN pg_depend d
			ON d.classid = 1259 AND d.objid = c.oid AND d.refclassid = 1259 AND d.refobjid = h.inhparent AND d.refobjsubid = 0 WHERE d.objid IS NULL`,
	}, {
		"pg_proc", "pg_proc has a language, a library, a result or a setting that does not go with the function %s",
		`SELECT format('%I (OID %s)', p.proname, p.oid) FROM pg_proc p LEFT JOIN (SELECT DISTINCT prosrc FROM pg_proc WHERE oid < 16384 AND prolang = 12) b ON b.prosrc = p.prosrc
		WHERE (p.prolang = 13) <> (p.probin IS NOT NULL) OR p.prolang = 12 AND p.oid >= 16384 AND b.prosrc IS NULL OR p.prokind = 'p' AND p.prorettype NOT IN (2278, 2249)
		OR EXISTS (SELECT FROM unnest(p.proconfig) s WHERE s !~ '^[^=]+=')`,
	}, {
		"pg_attribute", "pg_attribute does not have the column %s as its table's parent has it: statements on the parent fail",
		`SELECT format('%s.%I', h.inhrelid::regclass, p.attname) FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid AND c.relkind IN ('r', 'p', 'f')
		JOIN pg_attribute p ON p.attrelid = h.inhparent AND p.attnum > 0 AND NOT p.attisdropped LEFT JOIN pg_attribute a ON a.attrelid = h.inhrelid AND a.attname = p.attname AND NOT a.attisdropped
		WHERE a.attrelid IS NULL OR a.attinhcount = 0 OR (a.atttypid, a.atttypmod, a.attcollation) <> (p.atttypid, p.atttypmod, p.attcollation)`,
	}, {
		"pg_class", "pg_class and pg_inherits do not agree whether the index %s belongs to that of a partitioned table",
		`SELECT c.oid::regclass::text FROM pg_class c LEFT JOIN pg_inherits h ON h.inhrelid = c.oid WHERE c.relkind IN ('i', 'I') AND c.relispartition <> (h.inhrelid IS NOT NULL)`,
	}, {
		"pg_class", "pg_class has a bound for the partition %s that is none of its partitioned table's strategy",
		`SELECT c.oid::regclass::text FROM pg_class c JOIN pg_inherits h ON h.inhrelid = c.oid JOIN pg_partitioned_table p ON p.partrelid = h.inhparent
		WHERE substring(c.relpartbound::text FROM ':strategy (.)') <> p.partstrat::text`,
	}, {
		"pg_partitioned_table", "pg_partitioned_table names another default partition of %s than the one that says that it is it",
		`SELECT p.partrelid::regclass::text FROM pg_partitioned_table p LEFT JOIN (SELECT h.inhparent, c.oid FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
			WHERE c.relpartbound::text LIKE '%:is_default true%') d ON d.inhparent = p.partrelid WHERE p.partdefid <> coalesce(d.oid, 0)`,
	}, {
		"pg_partitioned_table", "pg_partitioned_table has an operator class or a collation for a column in the partition key of %s that its type cannot have",
		`SELECT DISTINCT p.partrelid::regclass::text FROM pg_partitioned_table p CROSS JOIN generate_series(0, p.partnatts - 1) k JOIN pg_opclass o ON o.oid = (p.partclass::oid[])[k]
		JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = (p.partattrs::int2[])[k] AND a.attnum > 0 JOIN pg_type t ON t.oid = a.atttypid
		WHERE t.typcollation = 0 AND (p.partcollation::oid[])[k] <> 0 OR NOT ` + takes("a.atttypid"),
	}, {
		"pg_index", "pg_index has an operator class for a column of the index %s that its type cannot have",
		`SELECT DISTINCT i.indexrelid::regclass::text FROM pg_index i CROSS JOIN generate_series(0, i.indnkeyatts - 1) k JOIN pg_opclass o ON o.oid = (i.indclass::oid[])[k]
		JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = (i.indkey::int2[])[k] AND a.attnum > 0 AND NOT a.attisdropped
		WHERE i.indexrelid >= 16384 AND NOT ` + takes("a.atttypid"),
	}, {
		"pg_range", "pg_range has an operator class or a collation for the range type %s that its subtype cannot have",
		`SELECT r.rngtypid::regtype::text FROM pg_range r JOIN pg_opclass o ON o.oid = r.rngsubopc JOIN pg_type t ON t.oid = r.rngsubtype
		WHERE t.typcollation = 0 AND r.rngcollation <> 0 OR NOT ` + takes("r.rngsubtype"),
	}, {
		"pg_enum", "pg_enum has no place for the label %s among the others",
		`SELECT format('%L of %s', enumlabel, enumtypid::regtype) FROM pg_enum WHERE enumsortorder IN ('NaN', 'Infinity', '-Infinity')`,
	}, {
		"pg_type", "pg_type contradicts itself about the type %s (default, subscripts)",
		`SELECT format('%I (OID %s)', t.typname, t.oid) FROM pg_type t WHERE t.typtype = 'd' AND (t.typdefault IS NULL) <> (t.typdefaultbin IS NULL)
		OR t.typelem = 0 AND to_jsonb(t) ->> 'typsubscript' LIKE '%array_subscript_handler'`,
	}, {
		"pg_constraint", "pg_constraint does not have the constraint %s as a part of that of the partitioned table, to which its index belongs",
		`SELECT format('%I of %s', k.conname, k.conrelid::regclass) FROM pg_constraint k JOIN pg_inherits h ON h.inhrelid = k.conindid JOIN pg_constraint p ON p.conindid = h.inhparent AND p.contype IN ('p', 'u', 'x')
		WHERE k.contype IN ('p', 'u', 'x') AND k.conparentid <> p.oid`,
	}, {
		"pg_ts_config_map", "pg_ts_config_map has an impossible kind of token, or dictionaries that are not numbered from 1 on, in the configuration %s",
		`SELECT DISTINCT mapcfg::text FROM pg_ts_config_map GROUP BY mapcfg, maptokentype HAVING maptokentype < 0 OR min(mapseqno) <> 1 OR max(mapseqno) <> count(*)`,
	},
}

// takes is a condition: the operator class o is for a type, or for one that stands for
// it. Of domains that is not judged.
func takes(typ string) string {
	return strings.ReplaceAll(`(o.opcintype = $type OR EXISTS (SELECT FROM pg_type y WHERE y.oid = o.opcintype AND y.typtype = 'p') OR EXISTS (SELECT FROM pg_type y WHERE y.oid = $type AND y.typtype = 'd')
			OR EXISTS (SELECT FROM pg_cast y WHERE y.castsource = $type AND y.casttarget = o.opcintype AND y.castmethod = 'b'))`, "$type", typ)
}

// letters are the values that columns of the type "char" can have in any version.
var letters = map[string]string{
	"pg_aggregate.aggkind": "noh", "pg_aggregate.aggfinalmodify": "rsw", "pg_aggregate.aggmfinalmodify": "rsw",
	"pg_am.amtype": "it", "pg_amop.amoppurpose": "so",
	"pg_attribute.attalign": "csid", "pg_attribute.attstorage": "pemx", "pg_attribute.attcompression": "pl", "pg_attribute.attidentity": "ad", "pg_attribute.attgenerated": "sv",
	"pg_cast.castcontext": "eai", "pg_cast.castmethod": "fib",
	"pg_class.relkind": "rpiIStvmcf", "pg_class.relpersistence": "put", "pg_class.relreplident": "dnfi",
	"pg_collation.collprovider":      "dcib",
	"pg_constraint.contype":          "cfnputx",
	"pg_constraint.confupdtype":      "arcnd ",
	"pg_constraint.confdeltype":      "arcnd ",
	"pg_constraint.confmatchtype":    "fs ",
	"pg_database.datlocprovider":     "dcib",
	"pg_default_acl.defaclobjtype":   "rSfTnL",
	"pg_depend.deptype":              "naiexpPS",
	"pg_event_trigger.evtenabled":    "ODRA",
	"pg_init_privs.privtype":         "ie",
	"pg_operator.oprkind":            "blr",
	"pg_partitioned_table.partstrat": "lrh",
	"pg_policy.polcmd":               "rawd*",
	"pg_proc.prokind":                "fpaw", "pg_proc.provolatile": "isv", "pg_proc.proparallel": "sru",
	"pg_rewrite.ev_type": "1234", "pg_rewrite.ev_enabled": "ODRA",
	"pg_shdepend.deptype":            "oairtp",
	"pg_subscription_rel.srsubstate": "idfsr",
	"pg_trigger.tgenabled":           "ODRA",
	"pg_type.typtype":                "bcdemrp", "pg_type.typalign": "csid", "pg_type.typstorage": "pemx",
}

// lost asks for the objects of a catalogue that others depend on or describe, and
// that it does not have: every object that is not builtin has dependencies, and
// nearly every builtin one a description. DROP SUBSCRIPTION leaves the description.
func lost(catalogue string) probe {
	const sql = `SELECT d.objid || coalesce(' (of ' || array_to_string((array_agg(DISTINCT d.relation::regclass::text))[1:3], ', ') || ')', '')
		FROM (SELECT objid, CASE WHEN refclassid = 1259 THEN refobjid END AS relation FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.%[1]s'::regclass
		UNION SELECT refobjid, CASE WHEN classid = 1259 THEN objid END FROM pg_catalog.pg_depend WHERE refclassid = 'pg_catalog.%[1]s'::regclass
		UNION SELECT objoid, NULL FROM pg_catalog.pg_description WHERE classoid = 'pg_catalog.%[1]s'::regclass AND '%[1]s' <> 'pg_subscription'
		UNION SELECT objid, NULL FROM pg_catalog.pg_shdepend WHERE classid = 'pg_catalog.%[1]s'::regclass AND dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())) d
		WHERE NOT EXISTS (SELECT FROM pg_catalog.%[1]s o WHERE o.oid = d.objid) GROUP BY d.objid LIMIT 10`
	return probe{
		sql:   fmt.Sprintf(sql, catalogue),
		wrong: catalogue + " does not have the object with OID %s, which pg_depend, pg_shdepend or pg_description tell of",
	}
}

// ownColumnsSQL lists the columns of the catalogues that hold an object's own OID,
// its name, or one of a few letters.
const ownColumnsSQL = `SELECT c.relname::text, a.attname::text, a.attname = 'oid', a.atttypid = 'name'::regtype FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
	WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind = 'r' AND has_table_privilege(c.oid, 'SELECT') AND a.attnum > 0
	AND (a.attname = 'oid' OR a.atttypid = '"char"'::regtype OR a.atttypid = 'name'::regtype AND a.attname LIKE '%name' AND a.attname <> 'attname'
		AND EXISTS (SELECT FROM pg_attribute o WHERE o.attrelid = c.oid AND o.attname = 'oid')) ORDER BY 1, 2`

// rules makes the probes of each catalogue for what holds for each of its rows.
func (s *session) rules(ctx context.Context) (map[string][]probe, error) {
	probes := functionProbes()
	for _, r := range catalogRules {
		probes[r.catalogue] = append(probes[r.catalogue], probe{sql: r.sql + " LIMIT 10", deep: true, wrong: r.wrong})
	}
	rows, err := s.conn.Query(ctx, ownColumnsSQL)
	if err != nil {
		return nil, fmt.Errorf("listing the columns of the catalogues: %w", err)
	}
	var catalogue, column string
	var own, isName bool
	_, err = pgx.ForEachRow(rows, []any{&catalogue, &column, &own, &isName}, func() error {
		name := catalogue + "." + column
		allowed, known := letters[name]
		switch {
		case own:
			probes[catalogue] = append(probes[catalogue], probe{
				sql:   "SELECT ctid::text FROM pg_catalog." + quote(catalogue) + " WHERE oid = 0 LIMIT 10",
				wrong: catalogue + " has a row without an OID (at %s)",
			})
			probes["pg_depend"] = append(probes["pg_depend"], lost(catalogue))
		case isName:
			probes[catalogue] = append(probes[catalogue], probe{
				sql:   fmt.Sprintf("SELECT oid::text FROM pg_catalog.%s WHERE %s = '' LIMIT 10", quote(catalogue), quote(column)),
				wrong: catalogue + " has no name for the object with OID %s",
			})
		case known:
			probes[catalogue] = append(probes[catalogue], probe{
				sql: fmt.Sprintf(`SELECT '"' || f.%[1]s::text || '"'%[2]s FROM pg_catalog.%[3]s f WHERE f.%[1]s NOT IN ('', '%[4]s') GROUP BY f.%[1]s LIMIT 10`,
					quote(column), inRows(catalogue), quote(catalogue), strings.Join(strings.Split(allowed, ""), "', '")),
				wrong: name + " has the value %s, which it cannot have",
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing the columns of the catalogues: %w", err)
	}
	return probes, nil
}
