package pglog

import (
	"regexp"
	"slices"
	"strings"
	"sync"
)

// knownMessage is a message that damage produces, as PostgreSQL's source writes
// it.
type knownMessage struct {
	kind EventKind
	// states are the SQLSTATEs that it comes with.
	states string
	text   string
}

// knownMessages are what reading, writing and vacuuming damaged data logs in
// versions 13 to 18. Many of them are never translated (elog). A text that
// contains user's words cannot match by accident: it would need the SQLSTATE,
// and where the log does not tell that, the whole text has to match.
var knownMessages = []knownMessage{
	{Checksum, "XX001 01000", `page verification failed, calculated checksum %u but expected %u`},
	{Checksum, "XX001 01000", `checksum verification failed in file "%s", block %u: calculated %X but expected %X`},
	{Checksum, "XX001 01000", `ignoring checksum failure in block %u of relation %s`},
	{Checksum, "XX001 01000", `ignoring %u checksum failures among blocks %u..%u of relation %s`},
	{Checksum, "XX001", `checksum verification failure during base backup`},

	{InvalidPage, "XX001 XX000", `invalid page in block %u of relation %s`},
	{InvalidPage, "XX001 01000", `zeroing %u page(s) and ignoring %u checksum failure(s) among blocks %u..%u of relation %s`},
	{InvalidPage, "XX001 01000", `zeroing out %u invalid pages among blocks %u..%u of relation %s`},
	{ShortRead, "XX001 XX000", `could not read block %u in file "%s": read only %u of %u bytes`},
	{ShortRead, "XX001 XX000", `could not read blocks %u..%u in file "%s": read only %u of %u bytes`},
	{ShortRead, "XX001 XX000 58P01", `could not open file "%s" (target block %u): previous segment is only %u blocks`},
	{ShortRead, "XX000", `could not truncate file "%s" to %u blocks: it's only %u blocks now`},
	{Internal, "XX000", `unexpected data beyond EOF in block %u of relation %s`},
	{InvalidPage, "XX000 01000", `WAL contains references to invalid pages`},
	{InvalidPage, "XX000 01000", `page %u of relation %s does not exist`},
	{InvalidPage, "XX000 01000", `page %u of relation %s is uninitialized`},
	{InvalidPage, "XX000", `bad magic number in sequence "%s": %X`},
	{PageLSN, "XX000", `xlog flush request %X/%X is not satisfied --- flushed only to %X/%X`},

	{MissingFile, "58P01 42501", `could not open file "base/%s": %s`},
	{MissingFile, "58P01 42501", `could not open file "global/%s": %s`},
	{MissingFile, "58P01 42501", `could not open file "pg_tblspc/%s": %s`},
	{IOError, "58030", `could not read block %u in file "%s": %s`},
	{IOError, "58030", `could not read blocks %u..%u in file "%s": %s`},
	{IOError, "58030", `could not write block %u in file "%s": %s`},
	{IOError, "58030", `could not write blocks %u..%u in file "%s": %s`},
	{IOError, "58030", `could not write block %u of %s`},
	{IOError, "58030", `could not fsync file "base/%s": %s`},

	{Toast, "XX001 XX000", `missing chunk number %u for toast value %u in %s`},
	{Toast, "XX001 XX000", `unexpected chunk number %u (expected %u) for toast value %u in %s`},
	{Toast, "XX001 XX000", `unexpected chunk number %u (out of range %u..%u) for toast value %u in %s`},
	{Toast, "XX001 XX000", `unexpected chunk size %u (expected %u) in chunk %u of %u for toast value %u in %s`},
	{Toast, "XX001 XX000", `unexpected chunk size %u (expected %u) in final chunk %u for toast value %u in %s`},
	{Toast, "XX001 XX000", `found toasted toast chunk for toast value %u in %s`},
	{Toast, "XX001 XX000", `compressed pglz data is corrupt`},
	{Toast, "XX001 XX000", `compressed lz4 data is corrupt`},
	{Toast, "XX001 XX000", `compressed data is corrupt`},
	{Toast, "XX000", `invalid compression method id %u`},

	{RelationMap, "XX001 XX000 01000 58P01 58030", `relation mapping file "%s" contains %s`},
	{ControlFile, "XX001 XX000", `incorrect checksum in control file`},
	{ControlFile, "XX001 XX000", `control file contains invalid %s`},
	{ControlFile, "XX001 XX000", `invalid WAL segment size in control file (%u bytes)`},

	{TransactionStatus, "XX001 XX000 58P01 58030 42501", `could not access status of transaction %u`},
	{TransactionStatus, "XX001 XX000", `MultiXactId %u has not been created yet -- apparent wraparound`},
	{TransactionStatus, "XX001 XX000", `MultiXactId %u does no longer exist -- apparent wraparound`},
	{TransactionStatus, "XX001 XX000", `MultiXact %u has invalid next offset`},
	{TransactionStatus, "01000 XX001", `overwrote invalid relfrozenxid value %u with new value %u for table "%s"`},
	{TransactionStatus, "01000 XX001", `overwrote invalid relminmxid value %u with new value %u for table "%s"`},
	{TransactionStatus, "XX001 XX000 01000", `corrupted two-phase state file for transaction %u`},
	{TransactionStatus, "XX001 XX000 01000", `corrupted two-phase state in memory for transaction %u`},

	{HeapTuple, "XX001 XX000", `found xmin %u from before relfrozenxid %u`},
	{HeapTuple, "XX001 XX000", `found xmax %u from before relfrozenxid %u`},
	{HeapTuple, "XX001 XX000", `found xmax %u (infomask 0x%s) not frozen, not multi, not normal`},
	{HeapTuple, "XX001 XX000", `found update xid %u from before relfrozenxid %u`},
	{HeapTuple, "XX001 XX000", `found update xid %u from before xid cutoff %u`},
	{HeapTuple, "XX001 XX000", `found multixact %u from before relminmxid %u`},
	{HeapTuple, "XX001 XX000", `multixact %u from before %s`},
	{HeapTuple, "XX001 XX000", `multixact %u contains %s`},
	{HeapTuple, "XX001 XX000", `multixact %u has two or more updating members`},
	{HeapTuple, "XX001 XX000", `uncommitted xmin %u from before xid cutoff %u needs to be frozen`},
	{HeapTuple, "XX001 XX000", `uncommitted xmin %u needs to be frozen`},
	{HeapTuple, "XX001 XX000", `cannot freeze committed xmax %u`},
	{HeapTuple, "XX001 XX000", `cannot freeze committed update xid %u`},
	{HeapTuple, "XX001 XX000", `corrupted page pointers: lower = %u, upper = %u, special = %u`},
	{HeapTuple, "XX001 XX000", `corrupted line pointer: %s`},
	{HeapTuple, "XX001 XX000", `corrupted item lengths: total %u, available space %u`},
	{HeapTuple, "XX001 XX000", `found raw xmax %u (infomask 0x%s) not invalid and not multi`},
	{HeapTuple, "XX000", `invalid lock status in tuple`},
	{HeapTuple, "XX000", `unrecognized multixact status %u`},
	{HeapTuple, "XX000", `invalid lp`},
	{HeapTuple, "XX000", `dead heap-only tuple (%u, %u) is not linked to from any HOT chain`},
	{HeapTuple, "XX001 XX000", `failed to find parent tuple for heap-only tuple at (%u,%u) in table "%s"`},
	{HeapTuple, "XX001 XX000", `t_xmin %u is %s in tuple (%u,%u) to be updated in table "%s"`},

	{IndexCorrupted, "XX000", `right sibling's left-link doesn't match: %s`},
	{IndexCorrupted, "XX000", `right sibling %u of block %u is not next child %u of block %u in index "%s"`},
	{IndexCorrupted, "XX000", `left link changed unexpectedly in block %u of index "%s"`},
	{IndexCorrupted, "XX000", `could not find left sibling of block %u in index "%s"`},
	{IndexCorrupted, "XX000", `valid left sibling for deletion target could not be located: %s`},
	{IndexCorrupted, "XX000", `right sibling %u of scanblkno %u unexpectedly in an inconsistent state in index "%s"`},
	{IndexCorrupted, "XX000", `half-dead page changed status unexpectedly in block %u of index "%s"`},
	{IndexCorrupted, "XX000", `target page changed status unexpectedly in block %u of index "%s"`},
	{IndexCorrupted, "XX000", `target page left link unexpectedly changed from %u to %u in block %u of index "%s"`},
	{IndexCorrupted, "XX000", `failed to add new item to block %u in index "%s"`},
	{IndexCorrupted, "XX000", `failed to add %s while splitting block %u of index "%s"`},
	{IndexCorrupted, "XX000", `failed to add item to index page in "%s"`},
	{IndexCorrupted, "XX000", `failed to update partially dead item in block %u of index "%s"`},
	{IndexCorrupted, "XX000", `failed to re-find parent %s`},
	{IndexCorrupted, "XX000", `failed to re-find tuple within index "%s"`},
	{IndexCorrupted, "XX000", `btree level %u not found in index "%s"`},
	{IndexCorrupted, "XX000", `fell off the end of index "%s"`},
	{IndexCorrupted, "XX000", `no live root page found in index "%s"`},
	{IndexCorrupted, "XX000", `root page %u of index "%s" has level %u, expected %u`},
	{IndexCorrupted, "XX000", `index "%s" is not a %s`},
	{IndexCorrupted, "XX000", `found deleted block %u while following right link from block %u in index "%s"`},
	{IndexCorrupted, "XX000", `unexpected page type 0x%s in BRIN index "%s" block %u`},
	{IndexCorrupted, "XX000", `corrupted BRIN index: inconsistent range map`},
	{IndexCorrupted, "XX000", `SPGiST index page %u has wrong nulls flag`},
	{IndexCorrupted, "XX000", `unexpected SPGiST tuple state: %u`},
	{IndexCorrupted, "XX000", `inconsistent tuple chain links in page %u of index "%s"`},
	{IndexCorrupted, "XX000", `invalid overflow block number %u`},
	{IndexCorrupted, "XX000", `invalid GiST tuple found on leaf page`},
	{IndexCorrupted, "XX000", `could not find parent of block %u in lookup table`},
	{IndexCorrupted, "XX000", `failed to find requested node %u in SPGiST inner tuple`},
	{IndexCorrupted, "XX000", `index returned tuples in wrong order`},

	{Catalog, "XX000", `pg_attribute catalog is missing %u attribute(s) for relation OID %u`},
	{Catalog, "XX000", `catalog is missing %u attribute(s) for relid %u`},

	{Catalog, "XX000", `no valid index found for toast relation with Oid %u`},

	{Internal, "XX000", `invalid memory alloc request size %u`},
	{Internal, "XX000", `unknown type of jsonb container`},
	{Internal, "XX000", `invalid jsonb scalar type`},

	{VisibilityMap, "01000 XX001", `page is not marked all-visible but visibility map bit is set in relation "%s" page %u`},
	{VisibilityMap, "01000 XX001", `page containing LP_DEAD items is marked as all-visible in relation "%s" page %u`},
	{VisibilityMap, "01000 XX001", `page containing dead tuples is marked as all-visible in relation "%s" page %u`},

	// What a healthy server logs as well, for example when a definition is changed
	// while it is used.
	{Suspect, "XX000", `could not open relation with OID %u`},
	{Suspect, "XX000", `cache lookup failed for %s`},
	{Suspect, "XX000", `could not find tuple for %s`},
	{Suspect, "55000 XX000", `attempted to update invisible tuple`},
	{Suspect, "55000 XX000", `attempted to delete invisible tuple`},
	{Suspect, "55000 XX000", `attempted to lock invisible tuple`},
	{Suspect, "XX000", `could not find pg_class entry for %u`},

	// What pageinspect says of bytes that somebody gives it.
	{Suspect, "XX001", `argument of t_bits is null, %s`},
	{Suspect, "XX001", `t_bits string is expected to be NULL, %s`},
	{Suspect, "XX001", `t_bits string must not be NULL`},
	{Suspect, "XX001", `unexpected length of t_bits %s, expected %u`},
	{Suspect, "XX001", `illegal character '%s' in t_bits string`},
	{Suspect, "XX001", `invalid character "%s" in t_bits string`},
	{Suspect, "XX001", `end of tuple reached without looking at all its data`},
	{Suspect, "XX001", `unexpected end of tuple data`},
	{Suspect, "XX001", `first byte of varlena attribute is incorrect for attribute %u`},
	{Suspect, "XX001", `number of attributes in tuple header is greater than number of attributes in tuple descriptor`},
	{Suspect, "XX002", `invalid magic number for metadata`},
	{Suspect, "XX002", `invalid version for metadata`},
}

// matcher is a known message made ready to be looked for.
type matcher struct {
	knownMessage

	literal string // the longest part without a conversion
	// start is the beginning of a text, whole all of it. They are made when the
	// literal was seen: all of them are two megabytes, and most servers log none.
	start, whole func() *regexp.Regexp
}

var conversion = regexp.MustCompile(`%[usX]`)

var matchers = func() []matcher {
	list := make([]matcher, 0, len(knownMessages))
	for _, known := range knownMessages {
		literals := conversion.Split(known.text, -1)
		pattern := regexp.QuoteMeta(known.text)
		pattern = strings.NewReplacer("%u", `-?\d+`, "%s", `.+`, "%X", `[0-9A-Fa-f]+`).Replace(pattern)
		list = append(list, matcher{
			known, slices.MaxFunc(literals, func(a, b string) int { return len(a) - len(b) }),
			sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(?:` + pattern + `)`) }),
			sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(?:` + pattern + `)$`) }),
		})
	}
	return list
}()

// knownKind finds the kind of a known text; "" is none.
func knownKind(sqlstate, text string) EventKind {
	for i := range matchers {
		k := &matchers[i]
		if !strings.Contains(text, k.literal) {
			continue
		}
		if sqlstate == UnknownState {
			// The server's own suspects are worth nothing when users' errors may look
			// the same.
			if k.kind != Suspect && k.whole().MatchString(text) {
				return k.kind
			}
			continue
		}
		if strings.Contains(k.states, sqlstate) && k.start().MatchString(text) {
			return k.kind
		}
	}
	return ""
}

// functionKinds are the functions of the server's source that report one kind
// of damage. With log_error_verbosity = verbose they tell the kind in every
// language.
var functionKinds = map[string]EventKind{
	"PageIsVerified": Checksum, "PageIsVerifiedExtended": Checksum,
	"ReadBuffer_common": InvalidPage, "WaitReadBuffers": InvalidPage, "buffer_readv_report": InvalidPage,
	"mdread": ShortRead, "mdreadv": ShortRead, "md_readv_report": ShortRead,
	"SlruReportIOError": TransactionStatus,
	"load_relmap_file":  RelationMap, "read_relmap_file": RelationMap,
	"ReadControlFile":   ControlFile,
	"toast_fetch_datum": Toast, "heap_fetch_toast_slice": Toast, "pglz_decompress_datum": Toast, "lz4_decompress_datum": Toast,
	"heap_prepare_freeze_tuple": HeapTuple, "FreezeMultiXactId": HeapTuple, "heap_pre_freeze_checks": HeapTuple, "PageRepairFragmentation": HeapTuple,
	"XLogFlush": PageLSN,
}
