"""Pairs of images and captions: reading them, two towers, and the loss that contrasts a batch."""
