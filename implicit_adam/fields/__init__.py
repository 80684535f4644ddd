"""The modified vector fields of optimizers."""

from implicit_adam.fields.carried.carried_field import carried_field as carried_field
from implicit_adam.fields.vector_field import limiting_field as limiting_field
from implicit_adam.fields.vector_field import optax_vector_field as optax_vector_field
from implicit_adam.fields.vector_field import raveled_field as raveled_field
from implicit_adam.fields.vector_field import vector_field as vector_field
