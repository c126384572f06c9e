"""Faces: detectors and landmark backends behind one small protocol, and the tracker that follows every face."""
