"""Where everything meets; imported by nobody."""

import os

# From its import on, onnxruntime's wheel reports to its makers unless told not to; footage and sites are nobody's business.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
