"""Packing the trained parts into one servable model, and deciding which version serves."""
