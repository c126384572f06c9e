"""Losses and objectives of EDTalk's stages."""
