"""Metrics over a batch_dict."""
