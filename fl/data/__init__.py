"""Transactions: what a file means, how it is read, cut into banks, windows and splits, and made into features."""
