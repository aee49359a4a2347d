"""The page of `sealr explore`: what a model recommends to one user, what its voices say, and what changes the list."""
