"""The pipeline, from configuration to report: the only place that touches disk and devices."""
