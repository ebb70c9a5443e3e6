"""Solvers learned for one model and one number of evaluations: the table, its file, its steps, the sampler."""
