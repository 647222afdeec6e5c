"""The model, its local training, and what a model is worth."""
