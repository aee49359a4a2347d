"""What texts say about items: readers, vectors of reviews, and the profiles that retrievers and rankers read."""
