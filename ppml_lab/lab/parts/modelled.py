"""The base of setups that train a model part under a mechanism part."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from jax import Array
from jaxtyping import PyTree

from ppml_lab.federated import scoring
from ppml_lab.lab.loading import facts_of
from ppml_lab.lab.parts.wrappers import with_noise


class Modelled:
    """Methods of setups with fields `model`, `mechanism`, `metrics` and `layout`.

    A private `trainer`, where there is one, has noise of its own.
    """

    def predict(self: Any, params: PyTree, rows: PyTree) -> Array:
        """Returns the model's scores of rows.

        Raises:
          ValueError: If each client has a model of its own: the parameters lack the
            leaves that clients keep.
        """
        if kept := getattr(self, "kept", ()):
            raise ValueError(
                f"clients keep {kept[0]}, so that each has its own model, but these "
                f"parameters hold {kept[0]} untrained; use the `client_` metrics for "
                "the clients' models, or a setup without kept for one model"
            )
        return self.model.predict(facts_of(self), params, rows)

    def judged(self: Any, state: Any, rows: PyTree) -> dict[str, Array]:
        """Returns the scalars of the task and of the metrics."""
        task, mesh = self.model.build(facts_of(self)), self.layout.mesh()
        judge = scoring.scorer(task, self.predict, self.metrics, mesh=mesh)
        return judge(state.params, rows)

    def with_noise(self, noise: float) -> Any:
        """Returns a copy with this noise in its mechanism, or in its private
        trainer.
        """
        bearers = {
            name: getattr(self, name)
            for name in ("mechanism", "trainer")
            if hasattr(self, name)
        }
        for name, bearer in bearers.items():
            noisy = with_noise(bearer, noise)
            if noisy is not None:
                return dataclasses.replace(cast(Any, self), **{name: noisy})
        named = [f"{name} {type(bearer).__name__}" for name, bearer in bearers.items()]
        raise ValueError(
            f"{' and '.join(named)} {'has' if len(named) == 1 else 'have'} no noise to "
            "set; give a mechanism such as Gaussian, or define with_noise(z)"
        )

    def accounted(self: Any) -> Any:
        """Returns a setup of the same privacy cost, which can be built with any noise
        that a calibration tries.
        """
        own = getattr(self.mechanism, "accounted", None)
        return self if own is None else dataclasses.replace(self, mechanism=own())
