"""Emotion labels of review texts (Section 2.1)."""
