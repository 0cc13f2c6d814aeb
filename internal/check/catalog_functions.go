package check

import (
	"fmt"
	"strings"
)

// functionColumns are columns of catalogues that name a function, with what must hold
// for the function p of a row o: the server calls it with the arguments that such a
// function gets, and takes its result for what such a function gives. The types are
// builtin ones, by their OIDs: bool 16, bytea 17, int4 23, oid 26, float8 701, void 2278,
// cstring 2275, its array 1263, internal 2281.
var functionColumns = []struct{ column, holds string }{
	{"pg_am.amhandler", "p.prorettype = CASE o.amtype WHEN 'i' THEN 325 ELSE 269 END"},
	{"pg_conversion.conproc", "p.pronargs IN (5, 6) AND p.prorettype IN (23, 2278)"},
	{"pg_event_trigger.evtfoid", "p.prorettype = 3838 AND p.pronargs = 0"},
	{"pg_foreign_data_wrapper.fdwhandler", "p.prorettype = 3115"},
	{"pg_foreign_data_wrapper.fdwvalidator", "p.pronargs = 2 AND p.proargtypes[0] = 1009 AND p.proargtypes[1] = 26"},
	{"pg_language.lanplcallfoid", "p.prorettype = 2280 AND p.pronargs = 0"},
	{"pg_language.laninline", "p.pronargs = 1 AND p.proargtypes[0] = 2281"},
	{"pg_language.lanvalidator", "p.pronargs = 1 AND p.proargtypes[0] = 26"},
	{"pg_operator.oprcode", "p.pronargs = CASE o.oprkind WHEN 'b' THEN 2 ELSE 1 END AND p.prorettype = o.oprresult AND p.prokind = 'f' AND NOT (o.oid < 16384 AND p.proretset)"},
	{"pg_operator.oprrest", "p.prorettype = 701 AND p.pronargs = 4 AND p.proargtypes[0] = 2281"},
	{"pg_operator.oprjoin", "p.prorettype = 701 AND p.pronargs IN (4, 5) AND p.proargtypes[0] = 2281"},
	{"pg_proc.prosupport", "p.prorettype = 2281 AND p.pronargs = 1 AND p.proargtypes[0] = 2281"},
	{"pg_range.rngcanonical", "p.pronargs = 1 AND (p.proargtypes[0], p.prorettype) = (o.rngtypid, o.rngtypid)"},
	{"pg_range.rngsubdiff", "p.pronargs = 2 AND p.prorettype = 701"},
	{"pg_trigger.tgfoid", "p.prorettype = 2279 AND p.pronargs = 0"},
	{"pg_ts_template.tmpllexize", "p.prorettype = 2281 AND p.pronargs = 4"},
	{"pg_type.typinput", "p.pronargs IN (1, 2, 3) AND p.proargtypes[0] = 2275"},
	{"pg_type.typoutput", "p.prorettype = 2275 AND p.pronargs = 1"},
	{"pg_type.typreceive", "p.pronargs IN (1, 2, 3) AND p.proargtypes[0] = 2281"},
	{"pg_type.typsend", "p.prorettype = 17 AND p.pronargs = 1"},
	{"pg_type.typmodin", "p.prorettype = 23 AND p.pronargs = 1 AND p.proargtypes[0] = 1263"},
	{"pg_type.typmodout", "p.prorettype = 2275 AND p.pronargs = 1 AND p.proargtypes[0] = 23"},
	{"pg_type.typanalyze", "p.prorettype = 16 AND p.pronargs = 1 AND p.proargtypes[0] = 2281"},
	{"pg_aggregate.aggfnoid", "p.prokind = 'a'"},
	{"pg_aggregate.aggtransfn", "p.prokind <> 'a' AND p.pronargs >= 1 AND NOT p.proretset"},
	{"pg_aggregate.aggcombinefn", "p.prokind = 'f' AND p.pronargs = 2"},
	{"pg_aggregate.aggserialfn", "p.pronargs = 1 AND p.proargtypes[0] = 2281 AND p.prorettype = 17"},
	{"pg_aggregate.aggdeserialfn", "p.pronargs = 2 AND p.proargtypes[0] = 17 AND p.prorettype = 2281"},
	{"pg_cast.castfunc", "p.pronargs IN (1, 2, 3) AND p.prokind = 'f' AND NOT p.proretset"},
}

// functionProbes ask for the functions that are not what their column needs.
func functionProbes() map[string][]probe {
	probes := make(map[string][]probe)
	for _, f := range functionColumns {
		catalogue, column, _ := strings.Cut(f.column, ".")
		probes[catalogue] = append(probes[catalogue], probe{
			deep: true, // proargtypes
			sql: fmt.Sprintf("SELECT DISTINCT format('%%I (OID %%s)', p.proname, p.oid) FROM pg_catalog.%s o JOIN pg_catalog.pg_proc p ON p.oid = o.%s::oid WHERE o.%[2]s::oid <> 0 AND NOT (%s) LIMIT 10",
				catalogue, column, f.holds),
			wrong: f.column + " names the function %s, whose arguments or result are not those of such a function",
		})
	}
	return probes
}
