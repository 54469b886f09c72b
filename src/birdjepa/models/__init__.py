"""Whole networks: the transformer, the encoder that users hold, projectors, heads."""
