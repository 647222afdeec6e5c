"""Differential privacy: mechanisms, accountants, each bank's lifelong budget, calibration and noise."""
