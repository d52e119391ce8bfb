"""Decoding of video, images, audio and masks; log-mel spectrograms."""
