"""Exact encrypted aggregation of many parties' vectors. See README.md and docs/ for the protocol and its limits."""
