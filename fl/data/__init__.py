"""Transactions: the schema of a file (with the label delay), reading, banks, features, training and test periods."""
