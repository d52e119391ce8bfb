"""Table files: their schema, their rows, their captions."""
