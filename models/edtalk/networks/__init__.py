"""EDTalk's networks, one component of the paper per file."""
