"""Gaussian splats, and their differentiable renderer."""
