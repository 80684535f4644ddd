"""What tests of claims share."""


def nothing(share):
    pass


def verdicts(experiment, found, config=None):
    return [claim.verdict for claim in experiment.claims(config or experiment.quick, found)]
