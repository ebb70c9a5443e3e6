"""Files: written whole or not at all, read within limits and without running anything, whoever wrote them."""
