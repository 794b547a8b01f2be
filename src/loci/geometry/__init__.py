"""Meshes and Gaussian splats: extraction, rendering, placement and files."""
