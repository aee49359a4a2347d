"""Packs the trained parts into one servable model and decides which version serves."""
