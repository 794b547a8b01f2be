"""Environments that can be recorded, and the protocol they follow."""
