"""Stages of RealTalk, one per file."""
