"""An auction house: bids are commands with ordered handlers, and everybody sees each price by push."""
