"""What several folders compute alike: the Gaussian frame, interpolation and quadrature, the named streams of noise."""
