"""The prepared store: writing it, reading it, batches."""
