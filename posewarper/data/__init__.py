"""Data: annotation files, frames of videos, crops, and data sets for training and inference."""
