"""What learns on frozen features, one file each kind."""
