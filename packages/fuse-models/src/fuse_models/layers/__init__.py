"""The layers that backbones and heads are built of."""
