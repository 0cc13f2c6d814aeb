package drill

import (
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	ioprioClassShift = 13
	ioprioIdle       = 3 // IOPRIO_CLASS_IDLE
	ioprioWho        = 1 // IOPRIO_WHO_PROCESS
)

// Yield makes this process, and everything that it will start, give way to
// others: nice is added to its niceness, and with it the disk is used only when
// nobody else wants it. 0 changes nothing.
func Yield(nice int) error {
	if nice == 0 {
		return nil
	}
	// Both belong to threads; new ones inherit from the one that makes them.
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			continue
		}
		if err := syscall.Setpriority(syscall.PRIO_PROCESS, id, nice); err != nil {
			return err
		}
		_, _, _ = syscall.Syscall(syscall.SYS_IOPRIO_SET, ioprioWho, uintptr(id), ioprioIdle<<ioprioClassShift) // not every kernel has it
	}
	return nil
}

// sessionMemory bounds the memory of each process of the scratch server beside the
// shared one. A damaged catalogue can make one take more and more.
const sessionMemory = 4 << 30

// confine bounds what a scratch server takes: memory, and when the machine has none
// left, it is the first to go.
func confine(pid int) {
	_ = unix.Prlimit(pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: sessionMemory, Max: sessionMemory}, nil) // it may have ended
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("1000"), 0)
}
