"""Meshes: extraction, closing, simplification, textures and rendering."""
