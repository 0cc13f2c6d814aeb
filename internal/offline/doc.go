// Package offline looks at a data directory whose server is down or will not
// start, and tells why. It only reads. What it cannot look at it says.
package offline
