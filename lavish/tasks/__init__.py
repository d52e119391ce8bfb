"""Tasks, one file each: head, loss, scores."""
