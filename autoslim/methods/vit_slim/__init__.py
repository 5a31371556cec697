"""ViT-Slim: width."""
