"""Files: atomic writing, checksums, fingerprints of folders, archives."""
