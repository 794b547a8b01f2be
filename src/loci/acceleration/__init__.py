"""Fewer evaluations in sampling: presets, step and token policies, error budgets, statistics."""
