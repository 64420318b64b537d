"""What a configuration is: entities, their rules, and the immutable snapshot made of them."""
