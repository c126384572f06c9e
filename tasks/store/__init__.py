"""Commands on a store: status, explain, verify, diff, gc, takedown, lineage."""
