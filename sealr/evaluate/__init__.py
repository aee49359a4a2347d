"""Metrics, protocols and statistics (paper section 3.1.3). The metrics are plain numpy, so trainers use them too."""
