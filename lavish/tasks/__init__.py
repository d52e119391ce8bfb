"""Tasks: what a batch is, the head, the loss and the metric; nothing else."""
