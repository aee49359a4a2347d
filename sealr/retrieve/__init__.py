"""Sequential retrievers: candidates for a user's next item from the whole catalogue (paper section 2.2)."""
