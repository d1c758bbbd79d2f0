"""Which device every rank gets, and what that means for the links that groups cross."""
