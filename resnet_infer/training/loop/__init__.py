"""Run the training loop: take steps, measure epochs, save and resume."""
