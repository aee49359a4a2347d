"""Sequential retrievers: which items of the whole catalogue may come next (paper section 2.2)."""
