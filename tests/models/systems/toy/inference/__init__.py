"""How it animates."""
