"""What the machine was doing: readings of GPUs and of the host, loaded by entry point where they are asked for."""
