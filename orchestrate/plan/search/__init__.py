"""From a config to a plan: every layout, the rules, the bounds, and questions asked the other way round."""
