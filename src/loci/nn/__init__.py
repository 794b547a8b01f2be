"""Layers that several models share, and where their weights are kept and computed with."""
