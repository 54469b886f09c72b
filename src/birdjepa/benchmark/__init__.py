"""Probes on frozen embeddings: folds, classifiers, metrics with intervals over recordings, and the floors that a score
is compared with."""
