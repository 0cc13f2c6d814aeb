package process

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// processReader reads one file of /proc for each scrape; the library reads six.
type processReader struct{ started []byte }

func newProcessReader() processReader {
	return processReader{familyOf(processFamilies(), "process_start_time_seconds")}
}

var (
	cpuSeconds = counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
	openFiles  = gauge("process_open_fds", "Number of open file descriptors.")
	maxFiles   = gauge("process_max_fds", "Maximum number of open file descriptors.")
	virtual    = gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.")
	resident   = gauge("process_resident_memory_bytes", "Resident memory size in bytes.")
)

func (p processReader) append(text []byte) []byte {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) == nil {
		text = cpuSeconds.append(text, float64(usage.Utime.Nano()+usage.Stime.Nano())/1e9, "")
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		text = maxFiles.append(text, float64(limit.Cur), "")
	}
	if n, ok := countFiles(); ok {
		text = openFiles.append(text, float64(n), "")
	}
	if content, err := os.ReadFile("/proc/self/statm"); err == nil { // in pages: size, resident, …
		fields := bytes.Fields(content)
		for i, family := range []family{virtual, resident} {
			if n, err := strconv.Atoi(string(fields[i])); err == nil {
				text = family.append(text, float64(n*os.Getpagesize()), "")
			}
		}
	}
	return append(text, p.started...)
}

// countFiles counts the open files: since Linux 6.2 that is the size of their
// directory.
func countFiles() (n int64, ok bool) {
	var stat syscall.Stat_t
	if syscall.Stat("/proc/self/fd", &stat) == nil && stat.Size > 0 {
		return stat.Size, true
	}
	entries, err := os.ReadDir("/proc/self/fd")
	return int64(len(entries)), err == nil
}

// familyOf cuts one family out of a text.
func familyOf(text []byte, name string) []byte {
	start := bytes.Index(text, []byte("# HELP "+name+" "))
	if start < 0 {
		return nil
	}
	family := text[start:]
	if end := bytes.Index(family[1:], []byte("# HELP ")); end >= 0 {
		family = family[:end+1]
	}
	return family
}
