"""Checks that every method has to pass, for the tests and for `lavish check-method`."""
