"""What memory is for, in the order in which a table shows it."""

WEIGHTS, TRAINED, OPTIMIZER, GRADIENTS = "weights", "trained", "optimizer", "gradients"
ACTIVATIONS, LOSS, BACKWARD = "activations", "logits, loss", "backward"

RESIDENT = (WEIGHTS, TRAINED, OPTIMIZER)
"""There between the steps too."""
PASSING = (ACTIVATIONS, LOSS, BACKWARD)
"""Made and given back within a step; it grows with the tokens."""
