"""Training and judging the embedded labeller on GoEmotions."""
