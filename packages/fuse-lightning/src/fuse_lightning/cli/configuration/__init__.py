"""What is wrong in a configuration, each mistake with its place and the nearest valid name."""
