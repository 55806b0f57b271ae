"""Loaders by name: their losses, metrics, and the records of their batches."""
