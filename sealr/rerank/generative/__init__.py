"""Rankers that generate a list: the paper's, of encoded item ids, and PALR, of names (Sections 2.3 and 3.1.2)."""
