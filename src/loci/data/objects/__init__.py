"""Data of the object models: meshes, cleaned, rendered and sampled."""
