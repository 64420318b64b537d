"""The data plane: supervisor, workers, generations on disk, and the compiled byte path."""
