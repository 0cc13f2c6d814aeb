package conf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Place is where a server finds files that parameters name.
type Place struct {
	// Root is the root directory that the server sees; empty is that of this process.
	Root string
	// Data is its data directory.
	Data string
	// Program is its executable, without links; empty is unknown.
	Program string
}

// of is where a file is: names that are not absolute begin in the data directory.
func (p Place) of(name string) string {
	if !filepath.IsAbs(name) {
		name = filepath.Join(p.Data, name)
	}
	if p.Root == "" {
		return name
	}
	return p.Root + p.resolve(name)
}

// maxLinks is how many links a name may lead through.
const maxLinks = 40

// resolve follows the links of an absolute name within Root: the system would follow
// those that are absolute from the root directory of this process.
func (p Place) resolve(name string) string {
	links := 0
	path := "/"
	rest := strings.Split(filepath.Clean(name), "/")
	for len(rest) > 0 {
		next := filepath.Join(path, rest[0])
		rest = rest[1:]
		target, err := os.Readlink(p.Root + next)
		if err != nil || links == maxLinks {
			path = next
			continue
		}
		links++
		if filepath.IsAbs(target) {
			path = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return path
}

// Certificates are files of SSL that are missing or that the server does not take.
func (s Start) Certificates(p Place) (misfits []Misfit) {
	if !s.On("ssl") {
		return nil
	}
	const impact = "The server does not start while ssl is on."
	for _, file := range []struct{ parameter, otherwise string }{{"ssl_cert_file", "server.crt"}, {"ssl_key_file", "server.key"}, {"ssl_ca_file", ""}, {"ssl_crl_file", ""}} {
		name := s.Value(file.parameter, file.otherwise)
		if name == "" {
			continue
		}
		info, err := os.Stat(p.of(name))
		if errors.Is(err, fs.ErrNotExist) {
			misfits = append(misfits, Misfit{file.parameter, fmt.Sprintf("%s names %s, which does not exist", file.parameter, name), impact, "Put the file there, or correct the parameter."})
			continue
		}
		if err != nil || file.parameter != "ssl_key_file" {
			continue
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		mode := info.Mode().Perm()
		if ok && (stat.Uid != 0 && mode&0o077 != 0 || stat.Uid == 0 && mode&0o037 != 0) {
			misfits = append(misfits, Misfit{
				file.parameter, fmt.Sprintf("the private key %s has the mode %04o", name, mode), impact,
				"chmod 0600 the key when it belongs to the user of the server, 0640 when it belongs to root.",
			})
		}
	}
	return misfits
}

// Libraries are those of shared_preload_libraries that the server will not find, or
// that are no libraries. Where its own libraries are must be known.
func (s Start) Libraries(p Place) (misfits []Misfit) {
	own := p.libraries()
	if own == "" {
		return nil
	}
	for _, name := range list(s.Value("shared_preload_libraries", "")) {
		var tried []string
		if strings.Contains(name, "/") {
			tried = []string{strings.Replace(name, "$libdir", own, 1)}
		} else {
			for directory := range strings.SplitSeq(s.Value("dynamic_library_path", "$libdir"), ":") {
				tried = append(tried, filepath.Join(strings.Replace(directory, "$libdir", own, 1), name))
			}
		}
		wrong := fmt.Sprintf("shared_preload_libraries names %s, which is not there", name)
		for _, file := range tried {
			switch problem, there := noLibrary(p.of(file), p.of(file+".so")); {
			case there && problem == "":
				wrong = ""
			case there:
				wrong = fmt.Sprintf("the library %s of shared_preload_libraries %s", name, problem)
			default:
				continue
			}
			break
		}
		if wrong != "" {
			misfits = append(misfits, Misfit{
				"shared_preload_libraries", fmt.Sprintf("%s (looked for at %s)", wrong, strings.Join(tried, ", ")), stops,
				"Install the library (it often went with a package), or take its name out of shared_preload_libraries.",
			})
		}
	}
	return misfits
}

// noLibrary says what is wrong with the first of some files that is there.
func noLibrary(names ...string) (problem string, there bool) {
	for _, name := range names {
		file, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", true // who may read it is not this process's business
		}
		defer func() { _ = file.Close() }() // it was only read
		magic := make([]byte, 4)
		if info, err := file.Stat(); err == nil && info.IsDir() {
			continue
		}
		if _, err := io.ReadFull(file, magic); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || err == nil && string(magic) != "\x7fELF" {
			return "is no library", true
		}
		return "", true
	}
	return "", false
}

// libraries is the directory of the server's own libraries ($libdir); "" is unknown.
// One that every server has tells it.
func (p Place) libraries() string {
	if p.Program == "" {
		return ""
	}
	home := filepath.Dir(filepath.Dir(p.Program))
	for _, directory := range []string{"lib", "lib/postgresql", "lib/pgsql", "lib64", "lib64/pgsql", "lib64/postgresql"} {
		directory = filepath.Join(home, directory)
		if _, err := os.Stat(p.of(filepath.Join(directory, "plpgsql.so"))); err == nil {
			return directory
		}
	}
	return ""
}

// list splits a list of names, of which some may be in double quotes.
func list(text string) (names []string) {
	for len(text) > 0 {
		text = strings.TrimLeft(text, " \t\n,")
		var name string
		if quoted, ok := strings.CutPrefix(text, `"`); ok {
			name, text, _ = strings.Cut(quoted, `"`)
		} else {
			name, text, _ = strings.Cut(text, ",")
			name = strings.TrimSpace(name)
		}
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}
