"""Parameter-efficient methods, one file each, all on tokens (B, N, C)."""
