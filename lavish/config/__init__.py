"""The typed configuration: its schema, how files are merged and validated, hashes, options of methods and tasks."""
