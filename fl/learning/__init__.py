"""The model, its local training, and the figures of a model."""
