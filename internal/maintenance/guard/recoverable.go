package guard

import (
	"context"
	"fmt"
	"time"

	"pg_integrity_exporter/internal/recovery"
)

// recoverable: what cannot be rolled back is brought back by point-in-time
// recovery, so one of the repositories must hold a usable backup that is fresh
// enough and that a drill has proved lately. The repositories and the history of
// the drills are read from disk.
func (b *before) recoverable(ctx context.Context) error {
	if len(b.options.Repositories) == 0 {
		b.answerf("backup", "", Warning, "no repository is configured (recovery.repositories): whether this could be brought back by recovery is not known")
		return nil
	}
	reasons := make(map[string]string)
	fit := false
	for _, watched := range b.options.Repositories {
		answer, reason, err := b.repository(ctx, watched)
		if err != nil {
			return err
		}
		if reason == "" {
			fit = true
			b.answerf("backup", watched.Name, OK, "%s", answer)
		} else {
			reasons[watched.Name] = reason
		}
	}
	for _, watched := range b.options.Repositories {
		switch reason, bad := reasons[watched.Name]; {
		case !bad:
		case fit || b.settings().allows("unproven"):
			b.answerf("backup", watched.Name, Warning, "%s", reason)
		default:
			b.answerf("backup", watched.Name, Failed, "%s; mend that first, or go on with --allow=unproven", reason)
		}
	}
	return nil
}

// repository says what could be recovered from a repository, or why nobody
// should rely on it.
func (b *before) repository(ctx context.Context, watched recovery.Watched) (answer, reason string, err error) {
	inventory := recovery.ReadSettled(ctx, watched.Repository)
	if inventory.Err != nil {
		return "", inventory.Err.Error(), nil //nolint:nilerr // it is the reason
	}
	history, err := recovery.LoadHistory(b.options.Files, watched.Name)
	if err != nil {
		return "", "", err
	}
	newest, found := inventory.LastSuccess()
	age, limits := time.Since(newest.Finished).Round(time.Second), watched.Objectives
	switch {
	case !found:
		return "", "it holds no usable backup", nil
	case newest.Kind == recovery.KindLogical:
		return "", "it holds dumps only, which cannot be recovered to the restore point", nil
	case newest.System != 0 && newest.System != b.system:
		return "", fmt.Sprintf("its newest backup %s is of another cluster", newest.Label), nil
	case limits.BackupAge > 0 && age > limits.BackupAge:
		return "", fmt.Sprintf("its newest usable backup %s is %s old (max_backup_age is %s)", newest.Label, age, limits.BackupAge), nil
	}
	for _, p := range inventory.Problems {
		return "", p.String(), nil
	}
	answer = fmt.Sprintf("%s is %s old", newest.Label, age)
	if limits.DrillAge == 0 {
		return answer + "; drills are not asked for", "", nil
	}
	proved := time.Since(history.LastProved).Round(time.Second)
	switch {
	case history.LastProved.IsZero():
		return "", "no drill has ever proved a backup of it: pg_integrity_exporter drill --repository=" + watched.Name, nil
	case history.Last != nil && !history.Last.Proved():
		return "", "its last drill did not prove it: " + history.Last.Reason, nil
	case proved > limits.DrillAge:
		return "", fmt.Sprintf("its last drill that proved a backup was %s ago (max_drill_age is %s)", proved, limits.DrillAge), nil
	}
	return fmt.Sprintf("%s, a drill proved one %s ago", answer, proved), "", nil
}
