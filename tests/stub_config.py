# Configuration override file that puts stub stages in.
from stub_stages import StubDetectionTask, StubMeasurementTask, StubSubtractTask

config.doDecorrelation = False
config.doScaleDiffimVariance = False
config.subtract.retarget(StubSubtractTask)
config.detection.retarget(StubDetectionTask)
config.measurement.retarget(StubMeasurementTask)
