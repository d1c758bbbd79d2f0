"""One module per verb, each with ``run(config, overrides) -> exit status``; imported when the verb runs."""
