"""Published measurements of training runs: reading them, predicting them, and scoring the predictions."""
