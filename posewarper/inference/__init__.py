"""What a trained model is for: predicting, propagating labels, aggregating windows of frames."""
