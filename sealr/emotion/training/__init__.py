"""Trains and evaluates the embedded labeller on GoEmotions."""
