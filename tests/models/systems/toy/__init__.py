"""A system for tests: models.__path__ is made to hold this folder."""
