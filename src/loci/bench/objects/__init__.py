"""Benchmarks of lifting: quality, speed, and differences from the exact result."""
