// Package cluster knows the files that hold a cluster together besides its
// relations and its WAL: the control file, the status of transactions, the
// relation map, prepared transactions, replication slots, timeline histories
// and the labels of backups, in versions 13 to 18. It decodes and judges bytes;
// who reads them, from a directory or through a server, is not its matter.
package cluster
