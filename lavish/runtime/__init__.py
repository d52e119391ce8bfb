"""Processes: the fork server that starts steps fast, worker pools."""
