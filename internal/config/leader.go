package config

// Leader is for several exporters that watch one server.
type Leader struct {
	// Enabled makes only one of them run what costs the server: checks, drills,
	// business transactions, reading its log through it. All serve scrapes.
	Enabled bool `yaml:"enabled"`
}
