"""Random input to everything that decodes: only the documented errors may come out, and soon."""
