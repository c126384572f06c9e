"""Input and output of inference: the face in a portrait or video, driving audio, paste-back, enhancement."""
