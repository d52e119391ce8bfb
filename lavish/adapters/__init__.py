"""Adapters: one file per method, all on (B, N, C) tokens."""
