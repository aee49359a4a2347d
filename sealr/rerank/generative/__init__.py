"""Rankers that write a list: the paper's, over encoded item ids, and PALR, over names (Sections 2.3 and 3.1.2)."""
