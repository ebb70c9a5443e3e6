"""Single-step solvers, which ask several times a step and keep nothing for the next.

``heun``: EDM's deterministic sampler. ``churn``: its stochastic one. ``dpm_solver``: DPM-Solver and DPM-Solver++ of one
step. ``adaptive``: steps chosen by their error. ``tableau``: classical Runge–Kutta. ``singlestep``: what they share.
"""
