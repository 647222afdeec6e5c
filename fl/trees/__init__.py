"""Gradient-boosted trees whose every aggregate is one exact sum of integers over the banks.

A sum of integers does not depend on how rows are divided among banks. So the trees of a federation are those of its
pooled rows, bit for bit, whether the sum is plain or encrypted. docs/adr/0032-trees.md says what that takes.
"""
