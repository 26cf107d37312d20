"""What is known of a run before, while and after it trains: each a function, a command of that name and its JSON."""
