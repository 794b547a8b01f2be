"""Doom: generated maps, walks through them, and the engine that renders them."""
