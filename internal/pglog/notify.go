package pglog

import (
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// newsOf gives a channel that tells of changes in a directory, where the
// operating system tells of them (inotify and the like). Elsewhere, for example
// on network file systems, nothing comes, and the follower polls. stop ends it.
func newsOf(directory string) (news <-chan struct{}, stop func()) {
	if directory == "" || strings.ContainsAny(directory, "*?[") {
		return nil, func() {}
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, func() {}
	}
	end := func() { _ = watcher.Close() } // it only read
	if err := watcher.Add(filepath.Clean(directory)); err != nil {
		end()
		return nil, func() {}
	}
	told := make(chan struct{}, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case _, open := <-watcher.Events:
				if !open {
					return
				}
				select {
				case told <- struct{}{}:
				default:
				}
			case _, open := <-watcher.Errors:
				if !open {
					return
				}
			}
		}
	}()
	return told, func() {
		end()
		<-ended
	}
}
