"""Samplers whose step is linear in the state and the beliefs' means; ``step`` has the formula they all share.

``ancestral``: DDPM, Analytic-DPM. ``ddim``: DDIM. ``euler``: the probability flow and the reverse SDE by Euler's
method. ``multistep``: DPM-Solver++(2M, 3M), UniPC, DEIS and their SDE forms. ``pndm``: PNDM. ``taylor``: quasi-Taylor.
"""
