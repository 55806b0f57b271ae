"""Losses of a batch and of an epoch."""
