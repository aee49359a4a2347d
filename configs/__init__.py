"""Configurations by name: data sets, base models and, in ``comparisons/``, the tables of ``sealr benchmark``."""
