"""Networks that are backdoored on purpose, with a card that says how and how well it worked."""
