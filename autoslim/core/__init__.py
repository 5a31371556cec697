"""The nouns: shape, plan, budget, constraints, recipe, job, result."""
