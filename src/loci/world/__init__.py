"""The world model: transformer, codecs, rollout."""
