package process

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// unmapProgram forgets which parts of the program's file this process has used. They
// stay in the page cache, and those that are used again are mapped again.
func unmapProgram() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	var start, end uint64 // of a part that may be forgotten
	for line := range bytes.Lines(smaps) {
		fields := bytes.Fields(line)
		switch {
		case len(fields) >= 5 && fields[0][len(fields[0])-1] != ':': // address permissions offset device inode path
			from, to, _ := bytes.Cut(fields[0], []byte("-"))
			start, _ = strconv.ParseUint(string(from), 16, 64)
			end, _ = strconv.ParseUint(string(to), 16, 64)
			if len(fields) != 6 || string(fields[5]) != program || fields[1][1] == 'w' {
				end = start
			}
		case string(fields[0]) == "Anonymous:" && string(fields[1]) == "0" && start < end: // nothing of it was changed in memory
			// It is advice: what the kernel does not take stays mapped.
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, uintptr(start), uintptr(end-start), syscall.MADV_DONTNEED)
		}
	}
}
