"""One command for your own video: labels on a few frames in, poses in all frames out."""
