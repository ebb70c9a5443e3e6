"""The Gaussian-remainder solver, which is the default: its step (``solver``), its integrals, and its noise grid."""
