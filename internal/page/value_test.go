package page

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

// anyTypes are types of all kinds of values.
func anyTypes() map[string]*Type {
	base := func(oid uint32, length int16, align byte) *Type {
		return &Type{OID: oid, Kind: 'b', Length: length, Align: align}
	}
	types := make(map[string]*Type)
	for _, oid := range []uint32{
		int2vectorOID, oidvectorOID, textOID, jsonOID, jsonbOID, jsonpathOID, numericOID, inetOID, cidrOID, bitOID, varbitOID,
		pathOID, polygonOID, tsvectorOID, tsqueryOID, txidSnapshotOID, snapshotOID,
	} {
		types[fmt.Sprint(oid)] = base(oid, -1, 'i')
	}
	for _, name := range []string{"citext", "cube", "hstore", "ltree"} {
		t := base(99999, -1, 'i')
		t.Extension = name
		types[name] = t
	}
	for _, element := range []*Type{base(int4OID, 4, 'i'), base(int8OID, 8, 'd'), base(dateOID, 4, 'i'), base(numericOID, -1, 'i'), base(textOID, -1, 'i')} {
		name := fmt.Sprint(element.OID)
		r := &Type{OID: 1, Kind: 'r', Length: -1, Align: element.Align, Element: element, Of: element.OID}
		types["range of "+name] = r
		types["multirange of "+name] = &Type{OID: 1, Kind: 'm', Length: -1, Align: element.Align, Element: r, Of: 1}
		types["array of "+name] = &Type{OID: 2, Kind: 'b', Length: -1, Align: element.Align, Element: element, Of: element.OID}
	}
	types["multirange of nothing"] = &Type{OID: 1, Kind: 'm', Length: -1, Align: 'i'}
	types["numeric(7,2)"] = base(numericOID, -1, 'i').With(7<<16 | 2 + 4)
	types["varbit(9)"] = base(varbitOID, -1, 'i').With(9)
	return types
}

// TestGarbageValues looks at values of any bytes: the exporter must survive them.
func TestGarbageValues(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(5, 6))
	rounds := 100_000
	if testing.Short() {
		rounds = 20_000
	}
	for name, one := range anyTypes() {
		problem := one.problem(-1, true)
		var v []byte
		func() {
			defer func() {
				if problem := recover(); problem != nil {
					t.Errorf("%s: %x: %v", name, v, problem)
				}
			}()
			for range rounds {
				v = v[:0]
				if one.Kind != 'b' {
					v = binary.LittleEndian.AppendUint32(v, one.OID)
				}
				for range random.IntN(24) {
					switch random.IntN(4) {
					case 0: // a small number, as counts and lengths are
						v = binary.LittleEndian.AppendUint32(v, random.Uint32N(6))
					case 1: // one with a mark
						v = binary.LittleEndian.AppendUint32(v, random.Uint32N(6)|1<<(24+random.IntN(8)))
					case 2:
						v = append(v, byte(random.IntN(4)), byte(random.IntN(32)))
					case 3:
						v = append(v, byte(random.Uint32()))
					}
				}
				problem(v)
			}
		}()
	}
}

// TestCompareNumeric holds the order of numbers against that of PostgreSQL's
// documentation: the NaN is behind infinity.
func TestCompareNumeric(t *testing.T) {
	t.Parallel()
	number := func(words ...uint16) (v []byte) {
		for _, word := range words {
			v = binary.LittleEndian.AppendUint16(v, word)
		}
		return v
	}
	const positive, negative, long, longNegative = 0x8000, 0xa000, 0x0000, 0x4000
	ordered := [][]byte{
		number(minusInfinity),
		number(longNegative, 70, 1),
		number(negative|1, 5), // -50000
		number(negative, 1, 5000),
		number(negative, 1),
		number(negative|0x7f, 1), // -0.0001
		number(positive),
		number(positive|0x7f, 1),
		number(positive|0x7f, 2),
		number(long, 0, 1),
		number(positive, 1, 5000),
		number(positive, 2),
		number(positive|1, 1),
		number(long, 70, 1),
		number(infinity),
		number(nan),
	}
	for i, a := range ordered {
		for j, b := range ordered {
			if got, want := compareNumeric(a, b), max(-1, min(1, i-j)); got != want {
				t.Errorf("%x and %x: %d, want %d", a, b, got, want)
			}
		}
	}
}
