"""What a person runs: the command line and what stands behind it."""
