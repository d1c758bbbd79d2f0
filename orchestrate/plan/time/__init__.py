"""How long a step takes, from the operator up."""
