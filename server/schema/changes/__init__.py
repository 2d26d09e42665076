"""What it takes to get from one schema to the next while both are served. Pure: states, comparisons, steps, no database."""
