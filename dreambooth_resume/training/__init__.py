"""Training: the objective, the optimizer and one step (pure of any file), and the loop that is built around them."""
