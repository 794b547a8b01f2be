"""Training of world models: batches, memory tokens of histories, objective, export."""
