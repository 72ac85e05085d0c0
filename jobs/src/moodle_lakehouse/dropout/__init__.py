"""Predict which students will drop out: features, training, registry, scoring, evaluation."""
