"""What the methods share: the trunk, token selection, rectangular attention, narrowed layers."""
