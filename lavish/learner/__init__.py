"""The learner as a whole: frozen backbone, method, two-stream encoder and task head."""
