"""Processes: the fork server that starts jobs quickly, worker pools."""
