"""What a run keeps on disk: checkpoints, exported weights, random states."""
