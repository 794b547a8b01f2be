"""What was seen, kept within a budget: compressors, the unbounded horizon, addressing."""
