"""Where upstream connections come from: names to addresses, addresses to connections."""
