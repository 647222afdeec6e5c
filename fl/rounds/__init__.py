"""What the rounds do: algorithms, compression, limits of single banks, joint steps under one noise."""
