"""Solvers of the reverse SDE that are not linear samplers (``reverse_sde``), and preconditioners (``filters``)."""
