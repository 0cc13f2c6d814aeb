package incident

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// postLimit bounds the delivery of one update.
const postLimit = 10 * time.Second

// Post delivers a message to a webhook.
func Post(ctx context.Context, address string, message Message) error {
	if parsed, err := url.Parse(address); err != nil || parsed.Host == "" {
		return fmt.Errorf("%q is not the URL of a webhook", redacted(address))
	}
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("writing the update: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, postLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("posting the update: %w", clean(err))
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("posting the update: %w", clean(err))
	}
	if err := response.Body.Close(); err != nil {
		return fmt.Errorf("posting the update: %w", err)
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("the webhook answers %s", response.Status)
	}
	return nil
}

// WriteStatusPage writes the incident's page into the directory of a status
// page, as content/issues of cstate. The file is replaced as a whole.
func WriteStatusPage(directory string, i Incident) (path string, err error) {
	path = filepath.Join(directory, i.ID+".md")
	temporary := path + ".new"
	if err := os.WriteFile(temporary, []byte(i.StatusPage()), 0o644); err != nil { //nolint:gosec // it is published
		return "", fmt.Errorf("writing the status page: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return "", fmt.Errorf("writing the status page: %w", err)
	}
	return path, nil
}
