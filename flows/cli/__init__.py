"""The `talkset` command: one file per group of commands, options they share, output, signals."""
