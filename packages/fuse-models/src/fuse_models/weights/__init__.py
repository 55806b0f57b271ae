"""Weights from files: those of others, and those that a run left behind."""
