"""Every rule, in every variant that changes its formulas, with memories short enough for the theorem."""

import implicit_adam as ia

CASES = {
    "adam": lambda h: ia.Adam(h, 0.5, 0.6, 0.1),
    "adam-eps-outside": lambda h: ia.Adam(h, 0.5, 0.6, 0.1, eps_in_sqrt=False),
    "rmsprop": lambda h: ia.RMSProp(h, 0.6, 0.1),
    "rmsprop-eps-outside": lambda h: ia.RMSProp(h, 0.6, 0.1, eps_in_sqrt=False),
    "rmsprop-corrected": lambda h: ia.RMSProp(h, 0.6, 0.1, bias_correction=True),
    "rmsprop-corrected-eps-outside": lambda h: ia.RMSProp(h, 0.6, 0.1, False, True),
    "gradient-descent": lambda h: ia.GradientDescent(h),
    "heavy-ball": lambda h: ia.HeavyBall(h, 0.5),
}
