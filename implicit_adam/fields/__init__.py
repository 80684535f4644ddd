"""The modified vector fields of optimizers. Public: `vector_field`, `limiting_field`."""

from implicit_adam.fields.select import limiting_field as limiting_field
from implicit_adam.fields.select import raveled_field as raveled_field
from implicit_adam.fields.select import vector_field as vector_field
