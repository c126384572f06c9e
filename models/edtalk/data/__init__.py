"""Training items of EDTalk's stages."""
