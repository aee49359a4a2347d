"""The ranker that scores all candidates in one pass, with items and feelings as soft tokens. It is not in the paper."""
