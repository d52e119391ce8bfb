"""One writer per official layout."""
