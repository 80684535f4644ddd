"""Studies of any optimizer on any loss, as the command line offers them."""
