"""Width: units of heads and MLPs, ranked by the gradient of their gates."""
