"""Several trained models and what they predict together."""
