package drill

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"pg_integrity_exporter/internal/recovery"
)

// restored is what a restore brought.
type restored struct {
	bytes    int64
	verified *recovery.VerifiedReport
	problems []recovery.Problem
	notes    []string
	// command is the restore_command that fetches WAL; empty is none.
	command string
}

// restore fills the scratch data directory with a backup.
func (d *drill) restore(ctx context.Context, b recovery.Backup) (restored, error) {
	var result restored
	var err error
	switch {
	case d.options.FetchCommand != "":
		err = d.fetch(ctx, b)
	case d.options.Watched.Type == recovery.TypePgBackRest:
		result, err = d.restorePgBackRest(ctx, b)
	case d.options.Watched.Type == recovery.TypeCloudNativePG:
		err = errors.New("what CloudNativePG keeps has no restore built in here: give fetch_command (barman-cloud-restore URL SERVER {backup} {data}) and restore_command (barman-cloud-wal-restore URL SERVER %f %p)")
	case d.options.Watched.Type == recovery.TypeWALG:
		err = errors.New("wal-g has no restore built in here: give fetch_command (wal-g backup-fetch {data} {backup}) and restore_command (wal-g wal-fetch %f %p)")
	default:
		result, err = d.restoreFiles(ctx, b)
	}
	if err != nil {
		return result, err
	}
	if d.options.RestoreCommand != "" {
		result.command = d.options.RestoreCommand
	}
	return result, d.neutralize()
}

// restoreFiles copies a base backup that lies open on disk, and compares it
// with its manifest on the way.
func (d *drill) restoreFiles(ctx context.Context, b recovery.Backup) (restored, error) {
	var result restored
	chain, err := d.inventory.Chain(b)
	if err != nil {
		return result, err
	}
	var manifest *recovery.Manifest
	if manifest, err = recovery.ReadManifest(filepath.Join(b.Path, recovery.ManifestName)); errors.Is(err, fs.ErrNotExist) {
		result.notes = append(result.notes, "the backup has no manifest: its files could not be compared with what was taken")
		manifest, err = nil, nil
	}
	if err != nil {
		return result, err
	}
	if len(chain) > 1 {
		result.verified, err = d.restoreChain(ctx, chain)
		result.bytes, result.command = b.Size, d.archiveCommand()
		result.notes = append(result.notes, "visibility maps of an incremental backup may be out of date, because the WAL does not name the pages of the map whose bits are cleared; "+
			"here they were made empty. After a real restore with pg_combinebackup run VACUUM (DISABLE_PAGE_SKIPPING) on every table, or let check page look at them")
		return result, err
	}
	c := d.newCopier(manifest)
	switch {
	case b.Tar:
		err = d.restoreTar(ctx, c, b)
	default:
		if err = c.tree(ctx, b.Path, d.scratch.data(), ""); err == nil {
			err = d.restoreTablespaces(ctx, c, b)
		}
	}
	result.bytes = c.bytes
	if err != nil {
		return result, err
	}
	if manifest != nil {
		result.verified = &recovery.VerifiedReport{Files: c.files, Read: c.summed, Bytes: c.bytes}
		result.problems = slices.Concat(c.problems, c.missing())
	}
	result.command = d.archiveCommand()
	return result, nil
}

// restoreTablespaces copies the tablespaces of a plain backup beside the data
// directory and links them.
func (d *drill) restoreTablespaces(ctx context.Context, c *copier, b recovery.Backup) error {
	for oid, source := range b.Tablespaces {
		if _, err := strconv.ParseUint(oid, 10, 32); err != nil {
			continue
		}
		if d.living[source] {
			return fmt.Errorf("the tablespace %s is not in the backup: its link points to %s, where the living server has it", oid, source)
		}
		target, err := d.newTablespace(oid)
		if err != nil {
			return err
		}
		if err := c.tree(ctx, source, target, "pg_tblspc/"+oid); err != nil {
			return fmt.Errorf("the tablespace %s: %w", oid, err)
		}
	}
	return nil
}

// newTablespace makes an empty directory for a tablespace and its link.
func (d *drill) newTablespace(oid string) (string, error) {
	target := filepath.Join(d.scratch.path, "tablespaces", oid)
	if err := d.scratch.runner.mkdir(target); err != nil {
		return "", err
	}
	links := filepath.Join(d.scratch.data(), "pg_tblspc")
	if err := d.scratch.runner.mkdir(links); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	link := filepath.Join(links, oid)
	if err := os.Symlink(target, link); err != nil {
		return "", err
	}
	return target, d.scratch.runner.own(link)
}

// restoreTar unpacks a backup in tar format.
func (d *drill) restoreTar(ctx context.Context, c *copier, b recovery.Backup) error {
	files, err := recovery.TarFiles(b.Path)
	if err != nil {
		return err
	}
	for _, base := range []bool{true, false} { // the data directory first
		for file, name := range files {
			if (name == "") != base {
				continue
			}
			target := d.scratch.data()
			if name != "" {
				if target, err = d.newTablespace(filepath.Base(name)); err != nil {
					return err
				}
			}
			if err := c.untar(ctx, file, target, name); err != nil {
				return err
			}
		}
	}
	if wal := recovery.WALTar(b.Path); wal != "" {
		if err := c.mkdirAll(d.scratch.data(), "pg_wal"); err != nil {
			return err
		}
		return c.untar(ctx, wal, filepath.Join(d.scratch.data(), "pg_wal"), "pg_wal")
	}
	return nil
}

// restoreChain combines an incremental backup with those it builds on, after
// each was compared with its own manifest.
func (d *drill) restoreChain(ctx context.Context, chain []recovery.Backup) (*recovery.VerifiedReport, error) {
	var directories []string
	verified := &recovery.VerifiedReport{}
	for n, b := range chain {
		if len(b.Tablespaces) > 0 {
			return nil, errors.New("incremental backups with tablespaces cannot be combined here: give fetch_command with pg_combinebackup --tablespace-mapping")
		}
		directory, err := d.plain(ctx, b, n)
		if err != nil {
			return nil, err
		}
		directories = append(directories, directory)
		manifest, err := recovery.ReadManifest(filepath.Join(b.Path, recovery.ManifestName))
		if err != nil {
			return nil, err
		}
		result, err := recovery.VerifyDirectory(ctx, directory, manifest, recovery.VerifyOptions{RateLimit: d.options.RateLimit})
		if err != nil {
			return nil, err
		}
		if len(result.Problems) > 0 {
			return nil, fmt.Errorf("%s of the chain is damaged: %s", b.Label, result.Problems[0])
		}
		verified.Files += result.Files
		verified.Read += result.Read
		verified.Bytes += result.Bytes
		verified.Seconds += result.Duration.Seconds()
	}
	c := d.newCopier(nil)
	if err := c.combine(ctx, directories, d.scratch.data()); err != nil {
		return nil, err
	}
	return verified, wholeLabel(d.scratch.data())
}

// plain gives the directory of a backup, unpacked when it is in tar format.
func (d *drill) plain(ctx context.Context, b recovery.Backup, number int) (string, error) {
	if !b.Tar {
		return b.Path, nil
	}
	directory := filepath.Join(d.scratch.path, "tool", strconv.Itoa(number))
	if err := d.scratch.runner.mkdir(directory); err != nil {
		return "", err
	}
	files, err := recovery.TarFiles(b.Path)
	if err != nil {
		return "", err
	}
	c := d.newCopier(nil)
	for file := range files {
		if err := c.untar(ctx, file, directory, ""); err != nil {
			return "", err
		}
	}
	return directory, nil
}

// fetch runs the user's command.
func (d *drill) fetch(ctx context.Context, b recovery.Backup) error {
	command := strings.NewReplacer("{backup}", shellQuote(b.Label), "{data}", shellQuote(d.scratch.data())).Replace(d.options.FetchCommand)
	_, err := d.scratch.runner.run(ctx, "/bin/sh", "-c", command)
	if err != nil {
		return fmt.Errorf("fetch_command: %w", noSpaceText(err))
	}
	return nil
}

// noSpaceText makes errFull of the message of another program, or of the server,
// which says it in another way when a part of a page could still be written.
func noSpaceText(err error) error {
	if strings.Contains(err.Error(), "No space left on device") || strings.Contains(err.Error(), "Check free disk space") {
		return errors.Join(errFull, err)
	}
	return err
}

// restorePgBackRest runs pgbackrest restore.
func (d *drill) restorePgBackRest(ctx context.Context, b recovery.Backup) (restored, error) {
	program, err := exec.LookPath("pgbackrest")
	if err != nil {
		return restored{}, errors.New("pgbackrest is not installed here, and only it can restore its repositories")
	}
	tool := filepath.Join(d.scratch.path, "tool")
	args := []string{
		"--stanza=" + d.stanza(), "--pg1-path=" + d.scratch.data(), "--set=" + b.Label,
		"--lock-path=" + tool, "--log-level-file=off", "--log-level-console=warn",
	}
	if d.options.ConfigFile != "" {
		args = append(args, "--config="+d.options.ConfigFile)
	} else {
		args = append(args, "--no-config", "--repo1-path="+d.options.Watched.Path)
	}
	restore := append([]string{"restore", "--type=none", "--tablespace-map-all=" + filepath.Join(d.scratch.path, "tablespaces")}, args...)
	if _, err := d.scratch.runner.run(ctx, program, restore...); err != nil {
		if strings.Contains(err.Error(), "Salted__") { // how encrypted files begin
			return restored{}, errors.New("the repository is encrypted, and the drill has not its key: name the configuration file of pgBackRest that has it in config_file")
		}
		return restored{}, noSpaceText(err)
	}
	get := []string{shellQuote(program)}
	for _, arg := range args {
		if !strings.HasPrefix(arg, "--set=") {
			get = append(get, percent(shellQuote(arg)))
		}
	}
	return restored{bytes: b.Size, command: strings.Join(append(get, "archive-get", "%f", `"%p"`), " ")}, nil
}

// stanza is the configured one, or the only one in the repository.
func (d *drill) stanza() string {
	if d.options.Watched.Stanza != "" {
		return d.options.Watched.Stanza
	}
	entries, err := os.ReadDir(filepath.Join(d.options.Watched.Path, "backup"))
	if err != nil || len(entries) == 0 {
		return ""
	}
	return entries[0].Name()
}

// archiveCommand is the restore_command for an archive that lies open on disk.
// The shell gets every name of the archive quoted.
func (d *drill) archiveCommand() string {
	a := d.inventory.Archive
	if a == nil {
		return ""
	}
	named, unnamed := make(map[string]bool), make(map[string]bool)
	nested := false
	for _, s := range a.Segments {
		if suffix := filepath.Ext(s.Path); suffix != "" {
			named[suffix] = true
		} else {
			unnamed[s.Compression] = true
		}
		nested = nested || filepath.Dir(s.Path) != a.Path
	}
	directory := percent(shellQuote(a.Path))
	if nested {
		// Barman sorts segments into directories named by their first 16 digits.
		directory += `/"$d"`
	}
	var script strings.Builder
	script.WriteString(`f=%f; p="%p"; `)
	if nested {
		script.WriteString(`d=$(echo "$f" | cut -c1-16); case "$f" in *.history) d=.;; esac; `)
	}
	// Barman does not say in the name what it compressed, and may have begun to in between.
	for _, c := range recovery.Compressors() {
		if unnamed[c.Suffix] {
			fmt.Fprintf(&script, `case "$(head -c %d %s/$f | od -An -tx1)" in " % x"*) exec %s -dc < %s/$f > "$p";; esac; `, len(c.Magic), directory, []byte(c.Magic), c.Program, directory)
		}
	}
	fmt.Fprintf(&script, `if [ -f %s/$f ]; then exec cp %s/$f "$p"; fi; `, directory, directory)
	for _, c := range recovery.Compressors() {
		if named[c.Suffix] {
			fmt.Fprintf(&script, `if [ -f %s/$f%s ]; then exec %s -dc < %s/$f%s > "$p"; fi; `, directory, c.Suffix, c.Program, directory, c.Suffix)
		}
	}
	return script.String() + "exit 1"
}

// percent keeps percent signs from being taken for those of restore_command.
func percent(text string) string { return strings.ReplaceAll(text, "%", "%%") }

var unquoted = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// shellQuote quotes an argument for the shell.
func shellQuote(text string) string {
	if unquoted.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// neutralize takes away what the restored cluster would otherwise obey: its own
// configuration, its role as a standby, and a map that would link tablespaces to
// where the living server has its own.
func (d *drill) neutralize() error {
	data := d.scratch.data()
	if err := os.Rename(filepath.Join(data, autoConf), filepath.Join(d.scratch.path, autoConf)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range []string{
		"standby.signal", "recovery.signal", "recovery.conf", "postmaster.pid", "postmaster.opts", "tablespace_map",
	} {
		if err := os.Remove(filepath.Join(data, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// No link may lead out of the scratch directory: the server would write there.
	links, err := os.ReadDir(filepath.Join(data, "pg_tblspc"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, link := range links {
		target, err := filepath.EvalSymlinks(filepath.Join(data, "pg_tblspc", link.Name()))
		if err != nil || !strings.HasPrefix(target, d.scratch.path+"/") {
			return fmt.Errorf("the tablespace %s was restored to %q, outside of the scratch directory", link.Name(), target)
		}
	}
	if target, err := os.Readlink(filepath.Join(data, "pg_wal")); err == nil {
		return fmt.Errorf("pg_wal was restored as a link to %s, outside of the data directory", target)
	}
	for _, name := range []string{
		"pg_replslot", "pg_stat_tmp", "pg_wal", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans", "pg_dynshmem", "pg_twophase",
		"pg_tblspc", "pg_commit_ts", "pg_stat", "pg_logical", "pg_wal/archive_status",
	} {
		err := d.scratch.runner.mkdir(filepath.Join(data, name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	slots, err := os.ReadDir(filepath.Join(data, "pg_replslot"))
	if err != nil {
		return err
	}
	for _, slot := range slots {
		if err := os.RemoveAll(filepath.Join(data, "pg_replslot", slot.Name())); err != nil {
			return err
		}
	}
	return nil
}
