"""Writers of composed clips, one per official layout."""
