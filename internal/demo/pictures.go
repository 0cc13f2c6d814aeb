package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// pictures draws the dashboards, and the integrity page as a desk and a
// telephone show it, into the directory that DEMO_PICTURES names, where there is
// a Chromium. That takes a minute.
func (d *demo) pictures(ctx context.Context, state string) (string, error) {
	directory := os.Getenv("DEMO_PICTURES")
	if directory == "" {
		return "none: DEMO_PICTURES names no directory for them", nil
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		return "none: chromium is not installed", nil //nolint:nilerr // pictures are an extra
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return "", fmt.Errorf("making the directory for pictures: %w", err)
	}
	span := max(time.Since(d.began), time.Minute).Round(time.Second)
	draw := exec.CommandContext(ctx, "go", "run", "./tools/draw", "--prometheus="+d.prometheusURL, "--output="+directory, "--range="+span.String(), "--suffix=-"+state)
	out, err := draw.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("drawing the dashboards: %w: %s", err, out)
	}
	count := strings.Count(string(out), ".png")
	for name, size := range map[string]string{"page": "1280,1600", "page-telephone": "412,1600"} {
		file := fmt.Sprintf("%s/%s-%s.png", directory, name, state)
		shot := exec.CommandContext(ctx, chromium, "--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size="+size, "--screenshot="+file, d.exporterURL+"/integrity")
		if out, err := shot.CombinedOutput(); err != nil {
			return "", errors.Join(fmt.Errorf("taking a picture of the integrity page: %w: %s", err, out), ctx.Err())
		}
		count++
	}
	return fmt.Sprintf("pictures=%d directory=%s", count, directory), nil
}

func (d *demo) picturesHealthy(ctx context.Context) (string, error) {
	return d.pictures(ctx, "healthy")
}

func (d *demo) picturesIncident(ctx context.Context) (string, error) {
	return d.pictures(ctx, "incident")
}
