"""The job's report: one HTML file that a browser opens without a network."""
