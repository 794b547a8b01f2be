"""Lift an object out of a picture: conditions, structure, latents, decoders, placement."""
