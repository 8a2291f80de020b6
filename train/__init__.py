"""What exists to train and to measure: configuration, data, losses, metrics, the loop. Networks live in `core`, commands in `scripts`."""
