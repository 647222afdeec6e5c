"""Examination, ablation and cards of a finished run."""
