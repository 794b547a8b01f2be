"""A bounded memory of an unbounded history: compression, merging, keyframes and poses."""
