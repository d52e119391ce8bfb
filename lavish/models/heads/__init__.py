"""Networks that stand between the encoder's features and a task's output; tasks build them, the encoder never."""
