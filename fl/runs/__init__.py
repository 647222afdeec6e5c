"""A run from its options to its result: folder, experiment, baselines, budgets and scoring."""
