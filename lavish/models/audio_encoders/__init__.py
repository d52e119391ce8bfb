"""Separate frozen audio encoders, one file per kind."""
