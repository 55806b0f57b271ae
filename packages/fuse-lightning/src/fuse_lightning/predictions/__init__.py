"""Predictions as a table and in files."""
