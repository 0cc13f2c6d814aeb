package recovery

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"pg_integrity_exporter/internal/wal"
)

// cloudNativeBackup is a Backup of CloudNativePG (postgresql.cnpg.io/v1), or a list
// of them.
type cloudNativeBackup struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name    string    `json:"name"`
		Created time.Time `json:"creationTimestamp"`
	} `json:"metadata"`
	Spec struct {
		Cluster struct {
			Name string `json:"name"`
		} `json:"cluster"`
	} `json:"spec"`
	Status struct {
		Phase        string    `json:"phase"`
		Started      time.Time `json:"startedAt"`
		Stopped      time.Time `json:"stoppedAt"`
		BeginWAL     string    `json:"beginWal"`
		BeginLSN     string    `json:"beginLSN"`
		EndLSN       string    `json:"endLSN"`
		Major        int       `json:"majorVersion"`
		Error        string    `json:"error"`
		CommandError string    `json:"commandError"`
	} `json:"status"`
	Items []cloudNativeBackup `json:"items"`
}

// cloudNativePatience is how long a backup may be under way.
const cloudNativePatience = 24 * time.Hour

// readCloudNativePG reads the Backups of one cluster, as `kubectl get
// backups.postgresql.cnpg.io --output=json` writes them.
func readCloudNativePG(_ context.Context, i *Inventory) error {
	content, err := os.ReadFile(i.Repository.Path)
	if err != nil {
		return err
	}
	const expected = "expected the output of kubectl get backups.postgresql.cnpg.io --output=json"
	var document cloudNativeBackup
	if err := json.Unmarshal(content, &document); err != nil {
		return fmt.Errorf("%s: %w (%s)", i.Repository.Path, err, expected)
	}
	items := document.Items
	switch {
	case document.Kind == "Backup":
		items = []cloudNativeBackup{document}
	case !strings.HasSuffix(document.Kind, "List"):
		return fmt.Errorf("%s holds the kind %q (%s)", i.Repository.Path, document.Kind, expected)
	}
	clusters := make(map[string]bool)
	for _, item := range items {
		if item.Kind != "Backup" {
			return fmt.Errorf("%s holds a %q (%s)", i.Repository.Path, item.Kind, expected)
		}
		clusters[item.Spec.Cluster.Name] = true
		if b, ok := item.backup(i.Read); ok {
			i.Backups = append(i.Backups, b)
		}
	}
	if len(clusters) > 1 {
		return fmt.Errorf("%s holds backups of several clusters (%s): choose one with --selector=cnpg.io/cluster=NAME",
			i.Repository.Path, strings.Join(slices.Sorted(maps.Keys(clusters)), ", "))
	}
	return nil
}

// backup is what a Backup tells; ok is false while it is being taken.
func (c cloudNativeBackup) backup(now time.Time) (b Backup, ok bool) {
	s := c.Status
	b = Backup{Label: c.Metadata.Name, Kind: KindFull, Started: s.Started, Finished: s.Stopped, Major: s.Major}
	if b.Started.IsZero() {
		b.Started = c.Metadata.Created
	}
	b.Start, _ = wal.ParsePosition(s.BeginLSN)
	b.End, _ = wal.ParsePosition(s.EndLSN)
	if len(s.BeginWAL) == 24 {
		timeline, _ := strconv.ParseUint(s.BeginWAL[:8], 16, 32)
		b.Timeline = uint32(timeline)
	}
	switch {
	case s.Phase == "completed" && b.Finished.IsZero():
		b.problemf(ProblemIncomplete, "is called completed, but has no stoppedAt")
	case s.Phase == "completed":
	case s.Phase == "failed":
		b.problemf(ProblemFailed, "failed: %s", cmp.Or(s.Error, s.CommandError, "CloudNativePG does not say why"))
	case s.Phase == "walArchivingFailing":
		b.problemf(ProblemFailed, "waits, because archiving of WAL fails: %s", cmp.Or(s.Error, "see the status of the cluster"))
	case now.Sub(b.Started) < cloudNativePatience:
		return b, false
	default:
		b.problemf(ProblemIncomplete, "is %s since %s", cmp.Or(s.Phase, "pending"), b.Started.UTC().Format(time.RFC3339))
	}
	return b, true
}
