"""Data sets: official layouts, media decoding, spectrograms, the prepared store and the composer."""
