"""Backbones: networks that turn images, volumes or vectors into features."""
