"""Surfaces and splats: extracting them, keeping them, writing them to files."""
