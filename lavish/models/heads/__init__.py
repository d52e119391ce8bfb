"""Networks between the encoder's features and a task's output."""
