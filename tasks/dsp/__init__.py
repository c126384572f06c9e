"""Audio signal processing that several extractors share."""
