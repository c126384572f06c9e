"""Storage: every fact that is kept on disk, its format and its guarantees."""
