package config

import (
	"fmt"
	"time"

	"github.com/alecthomas/units"
	"go.yaml.in/yaml/v3"
)

// Duration is a time.Duration written like 90s, 15m or 24h.
type Duration time.Duration

// String is the duration as the configuration file writes it.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalYAML writes the duration as a string.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }

// UnmarshalYAML reads a duration with its unit.
func (d *Duration) UnmarshalYAML(node *yaml.Node) error {
	parsed, err := time.ParseDuration(node.Value)
	if err != nil {
		return fmt.Errorf("line %d: %q is not a duration such as 90s, 15m or 24h", node.Line, node.Value)
	}
	*d = Duration(parsed)
	return nil
}

// Size is a number of bytes written like 512KiB or 32MiB.
type Size units.Base2Bytes

// String is the size as the configuration file writes it.
func (s Size) String() string { return units.Base2Bytes(s).String() }

// MarshalYAML writes the size as a string.
func (s Size) MarshalYAML() (any, error) { return s.String(), nil }

// UnmarshalYAML reads a size with its unit.
func (s *Size) UnmarshalYAML(node *yaml.Node) error {
	parsed, err := units.ParseBase2Bytes(node.Value)
	if err != nil {
		return fmt.Errorf("line %d: %q is not a size such as 512KiB or 32MiB", node.Line, node.Value)
	}
	*s = Size(parsed)
	return nil
}
