"""Transactions: what a file means (schemas), how it is read, cut into banks, windows and splits, and made into features."""
