"""The world model: its transformer, the sampling of chunks, and walks (`World`)."""
