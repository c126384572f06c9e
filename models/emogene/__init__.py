"""EmoGene: audio to motion, emotion, renderer (FG 2025, arXiv 2410.17262), built from its paper."""
