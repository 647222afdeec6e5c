"""The model, its local training (FedProx term: `proximal`), and its metrics."""
