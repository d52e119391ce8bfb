"""Tasks, one file each: head, loss and scores."""
