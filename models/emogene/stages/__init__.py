"""Stages of EmoGene, one per file."""
