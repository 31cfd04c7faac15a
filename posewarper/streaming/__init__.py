"""A trained model on new video of any length: files, folders of images, cameras, streams."""

from posewarper.streaming.command import predict
from posewarper.streaming.pipeline import Summary, predict_stream
from posewarper.streaming.sources import Source, open_source
from posewarper.streaming.windows import Options

__all__ = ["Options", "Source", "Summary", "open_source", "predict", "predict_stream"]
