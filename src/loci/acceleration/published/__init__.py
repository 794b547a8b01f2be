"""Presets and policies as published or released, and baselines."""
