"""Files damaged at random: refused, harmless or saved, and never a wrong payload."""
