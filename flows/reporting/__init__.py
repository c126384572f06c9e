"""What a running or finished flow shows: progress bars, artifacts, logs."""
