"""RealTalk: emotional landmark deformation and its renderer (ICCVW 2025, arXiv 2508.12163), built from its paper."""
