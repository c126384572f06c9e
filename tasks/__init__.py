"""Tasks: one step of the pipeline per file, verb first, plain Python without a scheduler."""
