"""The networks of image-to-3D: condition, structure and SLAT flows, autoencoders."""
