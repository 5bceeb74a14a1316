# Overrides for lsst.twinkles.diffim's ImageDifferenceTask where it runs under its plain name on Twinkles
# data; TwinklesImageDifferenceTask has them built in. Their one home is set_twinkles_defaults.
from lsst.twinkles.diffim.tasks.twinkles_image_difference import set_twinkles_defaults

set_twinkles_defaults(config)
