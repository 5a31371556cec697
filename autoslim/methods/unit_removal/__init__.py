"""Units of a block (head dimensions, heads, hidden units, patches): ranked, removed within a budget, and made up for."""
