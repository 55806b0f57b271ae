"""Heads: modules that turn features into predictions."""
