"""Data sets: official layouts, decoding, the prepared store, and the composer."""
