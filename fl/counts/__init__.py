"""Counts that all banks share: what is counted, how it is released, and the columns made of it."""
