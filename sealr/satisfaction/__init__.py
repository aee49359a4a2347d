"""Satisfaction: a forecast of how glad a user will be of an item, and how much it counts in the ranking."""
