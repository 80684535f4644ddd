"""The modified vector fields of optimizers."""

from implicit_adam.fields.carried_field import carried_field as carried_field
from implicit_adam.fields.select import limiting_field as limiting_field
from implicit_adam.fields.select import optax_vector_field as optax_vector_field
from implicit_adam.fields.select import raveled_field as raveled_field
from implicit_adam.fields.select import vector_field as vector_field
