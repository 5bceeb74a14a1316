# Dataset names of Rubin's prompt processing: preliminary_visit_image, template_detector, difference_image.
# For imageDifference.py (--configfile) and for the pipeline tasks (pipetask -C imageDifference:...).
from lsst.twinkles.diffim.tasks.dataset_names import set_rubin_names

set_rubin_names(config)
