"""Frame -> Detections."""
