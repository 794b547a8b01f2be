"""Benchmarks of worlds: memory, drift, cost of the horizon, speed."""
