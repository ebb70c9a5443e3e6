"""Markov chains: ``langevin`` (at one noise level), ``annealing`` (down the levels, as NCSN), ``denoising_mcmc``,
``boomerang`` (up to a noise level and back), and ``momentum`` on the probability flow.
"""
