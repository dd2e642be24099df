"""What every engine must keep: one suite, run on each broker and store pair."""
