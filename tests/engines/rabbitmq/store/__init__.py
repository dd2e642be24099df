"""What each store promises beside the contract."""
