"""Parts without a plot, from which networks and objectives are put together: blocks, positions, patches, SIGReg."""
