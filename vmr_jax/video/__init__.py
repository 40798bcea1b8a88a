"""From video files to rows of features: decoding, frame encoders, and the folder that keeps what they gave."""
