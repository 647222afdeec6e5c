"""Counts that all banks share: plan, release and columns. Suppression threshold: `min_banks` in plan and settings."""
