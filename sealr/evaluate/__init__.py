"""Metrics, protocols and statistics (paper section 3.1.3). The metrics are pure numpy, so trainers may use them too."""
