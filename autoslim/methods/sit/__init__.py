"""SiT: self-slimmed tokens."""
