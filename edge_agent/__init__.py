"""Source -> tiles -> compute, lend or steal -> result."""
