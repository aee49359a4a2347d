"""The ranker that scores all candidates in one pass: items and feelings as soft tokens (ours)."""
