"""The parts of a refresh around the computation: what is there, what to do, what came out, what to train."""
