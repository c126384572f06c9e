"""Models: networks, training engine, and the data sets they read from a published snapshot."""
