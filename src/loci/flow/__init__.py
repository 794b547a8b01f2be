"""Rectified flow: what both systems sample and train with."""
