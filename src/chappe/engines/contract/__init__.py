"""What every engine keeps; `tests/contract` tests each sentence on each of them."""
