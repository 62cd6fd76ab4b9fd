"""The host target: the machine that TileGrad runs on."""
