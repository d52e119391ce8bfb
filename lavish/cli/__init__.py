"""The `lavish` command."""
