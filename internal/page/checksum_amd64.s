#include "textflag.h"

// The first eight words of a page without pd_checksum, the lower half of the third.
DATA field<>+0(SB)/8, $0xffffffffffffffff
DATA field<>+8(SB)/8, $0xffffffffffff0000
DATA field<>+16(SB)/8, $0xffffffffffffffff
DATA field<>+24(SB)/8, $0xffffffffffffffff
GLOBL field<>(SB), RODATA|NOPTR, $32

DATA prime<>+0(SB)/4, $16777619
GLOBL prime<>(SB), RODATA|NOPTR, $4

// MIX makes of eight sums and eight words, in the register t, the next sums.
#define MIX(t, sums) \
	VPMULLD Y4, t, sums   \
	VPSRLD  $17, t, t     \
	VPXOR   t, sums, sums

// ROUND takes in a row of 32 words.
#define ROUND \
	VPXOR (SI), Y0, Y5    \
	VPXOR 32(SI), Y1, Y6  \
	VPXOR 64(SI), Y2, Y7  \
	VPXOR 96(SI), Y3, Y8  \
	MIX(Y5, Y0)           \
	MIX(Y6, Y1)           \
	MIX(Y7, Y2)           \
	MIX(Y8, Y3)           \
	ADDQ  $128, SI

// ZEROES takes in a row of zeroes.
#define ZEROES \
	VMOVDQA Y0, Y5        \
	VMOVDQA Y1, Y6        \
	VMOVDQA Y2, Y7        \
	VMOVDQA Y3, Y8        \
	MIX(Y5, Y0)           \
	MIX(Y6, Y1)           \
	MIX(Y7, Y2)           \
	MIX(Y8, Y3)

// func sumAVX2(p *[Size]byte) uint32
TEXT ·sumAVX2(SB), NOSPLIT, $0-12
	MOVQ         p+0(FP), SI
	VPBROADCASTD prime<>(SB), Y4
	LEAQ         ·offsets(SB), DI
	VMOVDQU      (DI), Y0
	VMOVDQU      32(DI), Y1
	VMOVDQU      64(DI), Y2
	VMOVDQU      96(DI), Y3

	// The first row.
	VMOVDQU field<>(SB), Y5
	VPAND   (SI), Y5, Y5
	VPXOR   Y5, Y0, Y5
	VPXOR   32(SI), Y1, Y6
	VPXOR   64(SI), Y2, Y7
	VPXOR   96(SI), Y3, Y8
	MIX(Y5, Y0)
	MIX(Y6, Y1)
	MIX(Y7, Y2)
	MIX(Y8, Y3)
	ADDQ    $128, SI

	// The other 63.
	MOVQ $21, CX

rows:
	ROUND
	ROUND
	ROUND
	DECQ CX
	JNZ  rows

	ZEROES
	ZEROES
	VPXOR        Y1, Y0, Y0
	VPXOR        Y3, Y2, Y2
	VPXOR        Y2, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPXOR        X1, X0, X0
	VPSHUFD      $0x4E, X0, X1
	VPXOR        X1, X0, X0
	VPSHUFD      $0xB1, X0, X1
	VPXOR        X1, X0, X0
	VMOVD        X0, AX
	VZEROUPPER
	MOVL         AX, ret+8(FP)
	RET
