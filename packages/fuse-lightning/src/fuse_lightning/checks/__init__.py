"""What is checked around the steps: keys, monitors, non-finite losses, repeated closures."""
