"""Layers on the occupied voxels of a grid."""
