"""Heads: what turns features into predictions."""
