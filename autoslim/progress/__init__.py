"""How far a command is: lines on a stream, and in a terminal or a notebook bars below them."""
