"""The contract of a method as checks, run by `lavish check-method` and by the contract tests."""
