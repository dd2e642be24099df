"""Read later: imports the links of other services, and keeps what the pages behind them say."""
